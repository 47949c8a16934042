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

from __future__ import annotations

from fibackup.parse.definition import Foreign, NewDefinition, Redefined, redefine
from fibackup.parse.domain_xml import (
    domain_facts,
    named_images,
    parse_domain_xml,
    volume_names,
    with_disk_sources,
    without_ledger,
)
from fibackup.parse.ledger_xml import (
    LEDGER_PREFIX,
    LEDGER_URI,
    LEDGER_VERSION,
    parse_ledger,
    render_ledger,
)
from fibackup.parse.manifest import (
    MANIFEST_FORMAT,
    StoreFile,
    parse_manifest,
    parse_merge,
    parse_receipt,
    parse_record,
    parse_removal,
    parse_store_file,
    render_manifest,
    render_merge,
    render_receipt,
    render_record,
    render_removal,
    render_store_file,
)
from fibackup.parse.qcow2_header import (
    MAX_BACKING_NAME_BYTES,
    MAX_CLUSTER_BYTES,
    NEEDED_BYTES,
    Qcow2Header,
    needed_bytes,
    parse_qcow2_header,
    resolve_backing,
    rewrite_backing,
    stored_header_fault,
)
from fibackup.parse.qemu_img_json import (
    CheckResult,
    Extent,
    ImageInfo,
    parse_check,
    parse_image_info,
    parse_map,
)
from fibackup.parse.seals import SEALS_FILE, parse_seals, render_seals
from fibackup.parse.volumes import Volumes, pool_directory
from fibackup.parse.xml_tree import MAX_XML_BYTES, MAX_XML_DEPTH, parse_xml

__all__ = [
    "parse_domain_xml",
    "domain_facts",
    "redefine",
    "NewDefinition",
    "Redefined",
    "Foreign",
    "named_images",
    "volume_names",
    "pool_directory",
    "Volumes",
    "with_disk_sources",
    "without_ledger",
    "parse_ledger",
    "render_ledger",
    "LEDGER_URI",
    "LEDGER_PREFIX",
    "LEDGER_VERSION",
    "parse_qcow2_header",
    "needed_bytes",
    "rewrite_backing",
    "stored_header_fault",
    "resolve_backing",
    "Qcow2Header",
    "NEEDED_BYTES",
    "MAX_BACKING_NAME_BYTES",
    "MAX_CLUSTER_BYTES",
    "parse_manifest",
    "parse_merge",
    "render_manifest",
    "render_merge",
    "parse_receipt",
    "parse_removal",
    "render_receipt",
    "parse_record",
    "render_record",
    "render_removal",
    "parse_store_file",
    "render_store_file",
    "StoreFile",
    "MANIFEST_FORMAT",
    "parse_seals",
    "render_seals",
    "SEALS_FILE",
    "parse_image_info",
    "parse_check",
    "parse_map",
    "Extent",
    "ImageInfo",
    "CheckResult",
    "parse_xml",
    "MAX_XML_BYTES",
    "MAX_XML_DEPTH",
]
