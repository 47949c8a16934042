"""
Text and bytes to values, and back: pure functions, strict readers.

::

    libvirt    domain XML         parse_domain_xml       -> Domain; with_disk_sources -> XML
               metadata           parse_ledger           -> Ledger
    files      qcow2 header       parse_qcow2_header     -> Qcow2Header
    qemu-img   info, check        parse_image_info, ...  -> ImageInfo, CheckResult
    store      manifest, receipt  parse_manifest, ...    -> RestorePoint, Receipt, StoreFile
               seals              parse_seals            -> sha256 of each manifest
"""
