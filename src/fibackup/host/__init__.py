"""The only layer with libvirt, child processes, files and the clock."""
