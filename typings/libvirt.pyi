"""
Partial stub of libvirt-python: what a backup tool calls, and no more.

The bindings carry annotations but no ``py.typed``, and where the C code builds a list, a tuple or a
dict they say ``str``. Return types here are what the C code builds. Constants that only newer headers
know (``VIR_ERR_AGENT_COMMAND_TIMEOUT`` and the like) are left out on purpose: the bindings have the
constants of the libvirt they were compiled against, so such a name must be looked up with a default.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias, TypedDict, TypeVar

_T = TypeVar("_T")
_RawError: TypeAlias = tuple[int, int, str, int, str | None, str | None, str | None, int, int]

class _BlockJobInfo(TypedDict, total=False):
    # Empty when there is no job on the disk.
    type: int
    bandwidth: int
    cur: int
    end: int

class libvirtError(Exception):
    err: _RawError | None
    def __init__(self, defmsg: str) -> None: ...
    # None only for an error built by hand while libvirt has none pending; the bindings never do that.
    def get_error_code(self) -> int: ...
    def get_error_domain(self) -> int: ...
    def get_error_message(self) -> str: ...
    def get_error_level(self) -> int: ...
    def get_str1(self) -> str | None: ...
    def get_str2(self) -> str | None: ...
    def get_str3(self) -> str | None: ...
    def get_int1(self) -> int | None: ...
    def get_int2(self) -> int | None: ...

def open(name: str | None = None) -> virConnect: ...
def openReadOnly(name: str | None = None) -> virConnect: ...
def openAuth(uri: str | None, auth: list[Any], flags: int = 0) -> virConnect: ...
def getVersion(name: None = None) -> int: ...
def registerErrorHandler(f: Callable[[_T, _RawError], object] | None, ctx: _T) -> int: ...
def virGetLastError() -> _RawError | None: ...
def virGetLastErrorMessage() -> str: ...
def virResetLastError() -> None: ...
def virEventRegisterDefaultImpl() -> int: ...
def virEventRunDefaultImpl() -> int: ...
def virEventAddHandle(
    fd: int, events: int, cb: Callable[[int, int, int, _T], object], opaque: _T
) -> int: ...
def virEventUpdateHandle(watch: int, events: int) -> None: ...
def virEventRemoveHandle(watch: int) -> int: ...
def virEventAddTimeout(timeout: int, cb: Callable[[int, _T], object], opaque: _T) -> int: ...
def virEventUpdateTimeout(timer: int, timeout: int) -> None: ...
def virEventRemoveTimeout(timer: int) -> int: ...

class virConnect:
    def __init__(self, _obj: object | None = None) -> None: ...
    def getURI(self) -> str: ...
    def getType(self) -> str: ...
    def getHostname(self) -> str: ...
    def getVersion(self) -> int: ...
    def getLibVersion(self) -> int: ...
    def getCapabilities(self) -> str: ...
    def getDomainCapabilities(
        self,
        emulatorbin: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virttype: str | None = None,
        flags: int = 0,
    ) -> str: ...
    def getInfo(self) -> list[Any]: ...
    def getSecurityModel(self) -> list[str]: ...
    def isAlive(self) -> int: ...
    def isEncrypted(self) -> int: ...
    def isSecure(self) -> int: ...
    def setKeepAlive(self, interval: int, count: int) -> int: ...
    def registerCloseCallback(
        self, cb: Callable[[virConnect, int, _T], object], opaque: _T
    ) -> int: ...
    def unregisterCloseCallback(self) -> None: ...
    def close(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type_: type[BaseException] | None,
        exc_value_: BaseException | None,
        traceback_: TracebackType | None,
    ) -> None: ...
    def lookupByName(self, name: str) -> virDomain: ...
    def lookupByUUIDString(self, uuidstr: str) -> virDomain: ...
    def lookupByID(self, id: int) -> virDomain: ...
    def listAllDomains(self, flags: int = 0) -> list[virDomain]: ...
    def listDefinedDomains(self) -> list[str]: ...
    def listDomainsID(self) -> list[int]: ...
    def numOfDomains(self) -> int: ...
    def defineXML(self, xml: str) -> virDomain: ...
    def defineXMLFlags(self, xml: str, flags: int = 0) -> virDomain: ...
    def createXML(self, xmlDesc: str, flags: int = 0) -> virDomain: ...
    def getAllDomainStats(
        self, stats: int = 0, flags: int = 0
    ) -> list[tuple[virDomain, dict[str, Any]]]: ...
    def restore(self, frm: str) -> int: ...
    def restoreFlags(self, frm: str, dxml: str | None = None, flags: int = 0) -> int: ...
    def restoreParams(self, params: dict[str, Any], flags: int = 0) -> int: ...
    def saveImageGetXMLDesc(self, file: str, flags: int = 0) -> str: ...
    def saveImageDefineXML(self, file: str, dxml: str, flags: int = 0) -> int: ...
    def domainEventRegisterAny(
        self, dom: virDomain | None, eventID: int, cb: Callable[..., object], opaque: object
    ) -> int: ...
    def domainEventDeregisterAny(self, callbackID: int) -> None: ...
    def storagePoolDefineXML(self, xml: str, flags: int = 0) -> virStoragePool: ...
    def storagePoolLookupByName(self, name: str) -> virStoragePool: ...
    def storagePoolLookupByTargetPath(self, path: str) -> virStoragePool: ...
    def storagePoolLookupByUUIDString(self, uuidstr: str) -> virStoragePool: ...
    def listAllStoragePools(self, flags: int = 0) -> list[virStoragePool]: ...
    def storageVolLookupByKey(self, key: str) -> virStorageVol: ...
    def storageVolLookupByPath(self, path: str) -> virStorageVol: ...

class virDomain:
    def __init__(self, conn: virConnect, _obj: object | None = None) -> None: ...
    def connect(self) -> virConnect: ...
    def name(self) -> str: ...
    def UUIDString(self) -> str: ...
    def UUID(self) -> bytes: ...
    def ID(self) -> int: ...
    def OSType(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def state(self, flags: int = 0) -> list[int]: ...
    def info(self) -> list[int]: ...
    def isActive(self) -> int: ...
    def isPersistent(self) -> int: ...
    def isUpdated(self) -> int: ...
    def controlInfo(self, flags: int = 0) -> list[int]: ...
    def messages(self, flags: int = 0) -> list[str]: ...
    def create(self) -> int: ...
    def createWithFlags(self, flags: int = 0) -> int: ...
    def destroy(self) -> int: ...
    def destroyFlags(self, flags: int = 0) -> int: ...
    def undefine(self) -> int: ...
    def undefineFlags(self, flags: int = 0) -> int: ...
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def shutdown(self) -> int: ...
    def shutdownFlags(self, flags: int = 0) -> int: ...
    def reboot(self, flags: int = 0) -> int: ...
    def reset(self, flags: int = 0) -> int: ...
    def rename(self, new_name: str, flags: int = 0) -> int: ...
    def autostart(self) -> int: ...
    def setAutostart(self, autostart: int) -> int: ...
    def hasManagedSaveImage(self, flags: int = 0) -> int: ...
    def managedSave(self, flags: int = 0) -> int: ...
    def managedSaveRemove(self, flags: int = 0) -> int: ...
    def managedSaveGetXMLDesc(self, flags: int = 0) -> str: ...
    def managedSaveDefineXML(self, dxml: str, flags: int = 0) -> int: ...
    def save(self, to: str) -> int: ...
    def saveFlags(self, to: str, dxml: str | None = None, flags: int = 0) -> int: ...
    def saveParams(self, params: dict[str, Any], flags: int = 0) -> int: ...
    def jobInfo(self) -> list[int]: ...
    def jobStats(self, flags: int = 0) -> dict[str, Any]: ...
    def abortJob(self) -> int: ...
    def abortJobFlags(self, flags: int = 0) -> int: ...
    def blockInfo(self, path: str, flags: int = 0) -> list[int]: ...
    def blockStats(self, path: str) -> tuple[int, int, int, int, int]: ...
    def blockStatsFlags(self, path: str, flags: int = 0) -> dict[str, int]: ...
    def diskErrors(self, flags: int = 0) -> dict[str, int]: ...
    def blockJobInfo(self, path: str, flags: int = 0) -> _BlockJobInfo: ...
    def blockJobAbort(self, disk: str, flags: int = 0) -> int: ...
    def blockJobSetSpeed(self, disk: str, bandwidth: int, flags: int = 0) -> int: ...
    def blockCommit(
        self, disk: str, base: str | None, top: str | None, bandwidth: int = 0, flags: int = 0
    ) -> int: ...
    def blockPull(self, disk: str, bandwidth: int = 0, flags: int = 0) -> int: ...
    def blockRebase(
        self, disk: str, base: str | None, bandwidth: int = 0, flags: int = 0
    ) -> int: ...
    def blockCopy(
        self, disk: str, destxml: str, params: dict[str, Any] | None = None, flags: int = 0
    ) -> int: ...
    def blockResize(self, disk: str, size: int, flags: int = 0) -> int: ...
    def setBlockThreshold(self, dev: str, threshold: int, flags: int = 0) -> int: ...
    def snapshotCreateXML(self, xmlDesc: str, flags: int = 0) -> virDomainSnapshot: ...
    def snapshotLookupByName(self, name: str, flags: int = 0) -> virDomainSnapshot: ...
    def snapshotListNames(self, flags: int = 0) -> list[str]: ...
    def snapshotNum(self, flags: int = 0) -> int: ...
    def hasCurrentSnapshot(self, flags: int = 0) -> int: ...
    def snapshotCurrent(self, flags: int = 0) -> virDomainSnapshot: ...
    def listAllSnapshots(self, flags: int = 0) -> list[virDomainSnapshot]: ...
    def checkpointCreateXML(self, xmlDesc: str, flags: int = 0) -> virDomainCheckpoint: ...
    def checkpointLookupByName(self, name: str, flags: int = 0) -> virDomainCheckpoint: ...
    def listAllCheckpoints(self, flags: int = 0) -> list[virDomainCheckpoint]: ...
    def backupBegin(self, backupXML: str, checkpointXML: str | None, flags: int = 0) -> int: ...
    def backupGetXMLDesc(self, flags: int = 0) -> str: ...
    def agentSetResponseTimeout(self, timeout: int, flags: int = 0) -> int: ...
    def fsInfo(self, flags: int = 0) -> list[tuple[str, str, str, list[str]]]: ...
    def fsFreeze(self, mountpoints: list[str] | None = None, flags: int = 0) -> int: ...
    def fsThaw(self, mountpoints: list[str] | None = None, flags: int = 0) -> int: ...
    def fSTrim(self, mountPoint: str, minimum: int, flags: int = 0) -> int: ...
    def guestInfo(self, types: int = 0, flags: int = 0) -> dict[str, Any]: ...
    def metadata(self, type: int, uri: str | None, flags: int = 0) -> str: ...
    def setMetadata(
        self, type: int, metadata: str | None, key: str | None, uri: str | None, flags: int = 0
    ) -> int: ...
    def attachDevice(self, xml: str) -> int: ...
    def attachDeviceFlags(self, xml: str, flags: int = 0) -> int: ...
    def detachDevice(self, xml: str) -> int: ...
    def detachDeviceFlags(self, xml: str, flags: int = 0) -> int: ...
    def detachDeviceAlias(self, alias: str, flags: int = 0) -> int: ...
    def updateDeviceFlags(self, xml: str, flags: int = 0) -> int: ...
    def pMWakeup(self, flags: int = 0) -> int: ...

class virDomainSnapshot:
    def __init__(self, dom: virDomain, _obj: object | None = None) -> None: ...
    def getName(self) -> str: ...
    def getXMLDesc(self, flags: int = 0) -> str: ...
    def getDomain(self) -> virDomain: ...
    def getConnect(self) -> virConnect: ...
    def getParent(self, flags: int = 0) -> virDomainSnapshot: ...
    def isCurrent(self, flags: int = 0) -> int: ...
    def hasMetadata(self, flags: int = 0) -> int: ...
    def listChildrenNames(self, flags: int = 0) -> list[str]: ...
    def listAllChildren(self, flags: int = 0) -> list[virDomainSnapshot]: ...
    def delete(self, flags: int = 0) -> int: ...

class virDomainCheckpoint:
    def __init__(self, dom: virDomain, _obj: object | None = None) -> None: ...
    def getName(self) -> str: ...
    def getXMLDesc(self, flags: int = 0) -> str: ...
    def getDomain(self) -> virDomain: ...
    def getConnect(self) -> virConnect: ...
    def getParent(self, flags: int = 0) -> virDomainCheckpoint: ...
    def listAllChildren(self, flags: int = 0) -> list[virDomainCheckpoint]: ...
    def delete(self, flags: int = 0) -> int: ...

class virStoragePool:
    def __init__(self, conn: virConnect, _obj: object | None = None) -> None: ...
    def connect(self) -> virConnect: ...
    def name(self) -> str: ...
    def UUIDString(self) -> str: ...
    def UUID(self) -> bytes: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def info(self) -> list[int]: ...
    def isActive(self) -> int: ...
    def isPersistent(self) -> int: ...
    def refresh(self, flags: int = 0) -> int: ...
    def create(self, flags: int = 0) -> int: ...
    def destroy(self) -> int: ...
    def undefine(self) -> int: ...
    def listVolumes(self) -> list[str]: ...
    def listAllVolumes(self, flags: int = 0) -> list[virStorageVol]: ...
    def storageVolLookupByName(self, name: str) -> virStorageVol: ...
    def createXML(self, xmlDesc: str, flags: int = 0) -> virStorageVol: ...

class virStorageVol:
    def __init__(self, conn: virConnect, _obj: object | None = None) -> None: ...
    def connect(self) -> virConnect: ...
    def name(self) -> str: ...
    def key(self) -> str: ...
    def path(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def info(self) -> list[int]: ...
    def storagePoolLookupByVolume(self) -> virStoragePool: ...
    def delete(self, flags: int = 0) -> int: ...

# virConnectCloseReason
VIR_CONNECT_CLOSE_REASON_ERROR: int
VIR_CONNECT_CLOSE_REASON_EOF: int
VIR_CONNECT_CLOSE_REASON_KEEPALIVE: int
VIR_CONNECT_CLOSE_REASON_CLIENT: int

# virConnectCredentialType
VIR_CRED_USERNAME: int
VIR_CRED_AUTHNAME: int
VIR_CRED_LANGUAGE: int
VIR_CRED_CNONCE: int
VIR_CRED_PASSPHRASE: int
VIR_CRED_ECHOPROMPT: int
VIR_CRED_NOECHOPROMPT: int
VIR_CRED_REALM: int
VIR_CRED_EXTERNAL: int

# virConnectDomainEventBlockJobStatus
VIR_DOMAIN_BLOCK_JOB_COMPLETED: int
VIR_DOMAIN_BLOCK_JOB_FAILED: int
VIR_DOMAIN_BLOCK_JOB_CANCELED: int
VIR_DOMAIN_BLOCK_JOB_READY: int

# virConnectFlags
VIR_CONNECT_RO: int
VIR_CONNECT_NO_ALIASES: int

# virConnectGetAllDomainStatsFlags
VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_PERSISTENT: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_TRANSIENT: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_PAUSED: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_SHUTOFF: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_OTHER: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS: int

# virConnectListAllDomainsFlags
VIR_CONNECT_LIST_DOMAINS_ACTIVE: int
VIR_CONNECT_LIST_DOMAINS_INACTIVE: int
VIR_CONNECT_LIST_DOMAINS_PERSISTENT: int
VIR_CONNECT_LIST_DOMAINS_TRANSIENT: int
VIR_CONNECT_LIST_DOMAINS_RUNNING: int
VIR_CONNECT_LIST_DOMAINS_PAUSED: int
VIR_CONNECT_LIST_DOMAINS_SHUTOFF: int
VIR_CONNECT_LIST_DOMAINS_OTHER: int
VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE: int
VIR_CONNECT_LIST_DOMAINS_NO_MANAGEDSAVE: int
VIR_CONNECT_LIST_DOMAINS_AUTOSTART: int
VIR_CONNECT_LIST_DOMAINS_NO_AUTOSTART: int
VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT: int
VIR_CONNECT_LIST_DOMAINS_NO_SNAPSHOT: int
VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT: int
VIR_CONNECT_LIST_DOMAINS_NO_CHECKPOINT: int

# virDomainAbortJobFlagsValues
VIR_DOMAIN_ABORT_JOB_POSTCOPY: int

# virDomainAgentResponseTimeoutValues
VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK: int
VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_DEFAULT: int
VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_NOWAIT: int

# virDomainBackupBeginFlags
VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL: int

# virDomainBlockCommitFlags
VIR_DOMAIN_BLOCK_COMMIT_SHALLOW: int
VIR_DOMAIN_BLOCK_COMMIT_DELETE: int
VIR_DOMAIN_BLOCK_COMMIT_ACTIVE: int
VIR_DOMAIN_BLOCK_COMMIT_RELATIVE: int
VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES: int

# virDomainBlockCopyFlags
VIR_DOMAIN_BLOCK_COPY_SHALLOW: int
VIR_DOMAIN_BLOCK_COPY_REUSE_EXT: int
VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB: int
VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES: int

# virDomainBlockJobAbortFlags
VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC: int
VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT: int

# virDomainBlockJobInfoFlags
VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES: int

# virDomainBlockJobSetSpeedFlags
VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES: int

# virDomainBlockJobType
VIR_DOMAIN_BLOCK_JOB_TYPE_UNKNOWN: int
VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: int
VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: int
VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: int
VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: int
VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: int

# virDomainBlockPullFlags
VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES: int

# virDomainBlockRebaseFlags
VIR_DOMAIN_BLOCK_REBASE_SHALLOW: int
VIR_DOMAIN_BLOCK_REBASE_REUSE_EXT: int
VIR_DOMAIN_BLOCK_REBASE_COPY_RAW: int
VIR_DOMAIN_BLOCK_REBASE_COPY: int
VIR_DOMAIN_BLOCK_REBASE_RELATIVE: int
VIR_DOMAIN_BLOCK_REBASE_COPY_DEV: int
VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES: int

# virDomainBlockResizeFlags
VIR_DOMAIN_BLOCK_RESIZE_BYTES: int

# virDomainBlockedReason
VIR_DOMAIN_BLOCKED_UNKNOWN: int

# virDomainCheckpointCreateFlags
VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE: int
VIR_DOMAIN_CHECKPOINT_CREATE_QUIESCE: int
VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE: int

# virDomainCheckpointDeleteFlags
VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN: int
VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY: int
VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN_ONLY: int

# virDomainCheckpointListFlags
VIR_DOMAIN_CHECKPOINT_LIST_DESCENDANTS: int
VIR_DOMAIN_CHECKPOINT_LIST_ROOTS: int
VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL: int
VIR_DOMAIN_CHECKPOINT_LIST_LEAVES: int
VIR_DOMAIN_CHECKPOINT_LIST_NO_LEAVES: int

# virDomainCheckpointXMLFlags
VIR_DOMAIN_CHECKPOINT_XML_SECURE: int
VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN: int
VIR_DOMAIN_CHECKPOINT_XML_SIZE: int

# virDomainControlErrorReason
VIR_DOMAIN_CONTROL_ERROR_REASON_NONE: int
VIR_DOMAIN_CONTROL_ERROR_REASON_UNKNOWN: int
VIR_DOMAIN_CONTROL_ERROR_REASON_MONITOR: int
VIR_DOMAIN_CONTROL_ERROR_REASON_INTERNAL: int

# virDomainControlState
VIR_DOMAIN_CONTROL_OK: int
VIR_DOMAIN_CONTROL_JOB: int
VIR_DOMAIN_CONTROL_OCCUPIED: int
VIR_DOMAIN_CONTROL_ERROR: int

# virDomainCrashedReason
VIR_DOMAIN_CRASHED_UNKNOWN: int
VIR_DOMAIN_CRASHED_PANICKED: int

# virDomainCreateFlags
VIR_DOMAIN_START_PAUSED: int
VIR_DOMAIN_START_AUTODESTROY: int
VIR_DOMAIN_START_BYPASS_CACHE: int
VIR_DOMAIN_START_FORCE_BOOT: int
VIR_DOMAIN_START_VALIDATE: int
VIR_DOMAIN_START_RESET_NVRAM: int

# virDomainDefineFlags
VIR_DOMAIN_DEFINE_VALIDATE: int

# virDomainDestroyFlagsValues
VIR_DOMAIN_DESTROY_DEFAULT: int
VIR_DOMAIN_DESTROY_GRACEFUL: int
VIR_DOMAIN_DESTROY_REMOVE_LOGS: int

# virDomainDeviceModifyFlags
VIR_DOMAIN_DEVICE_MODIFY_CURRENT: int
VIR_DOMAIN_DEVICE_MODIFY_LIVE: int
VIR_DOMAIN_DEVICE_MODIFY_CONFIG: int
VIR_DOMAIN_DEVICE_MODIFY_FORCE: int

# virDomainDiskErrorCode
VIR_DOMAIN_DISK_ERROR_NONE: int
VIR_DOMAIN_DISK_ERROR_UNSPEC: int
VIR_DOMAIN_DISK_ERROR_NO_SPACE: int

# virDomainEventCrashedDetailType
VIR_DOMAIN_EVENT_CRASHED_PANICKED: int
VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED: int

# virDomainEventDefinedDetailType
VIR_DOMAIN_EVENT_DEFINED_ADDED: int
VIR_DOMAIN_EVENT_DEFINED_UPDATED: int
VIR_DOMAIN_EVENT_DEFINED_RENAMED: int
VIR_DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT: int

# virDomainEventID
VIR_DOMAIN_EVENT_ID_LIFECYCLE: int
VIR_DOMAIN_EVENT_ID_REBOOT: int
VIR_DOMAIN_EVENT_ID_RTC_CHANGE: int
VIR_DOMAIN_EVENT_ID_WATCHDOG: int
VIR_DOMAIN_EVENT_ID_IO_ERROR: int
VIR_DOMAIN_EVENT_ID_GRAPHICS: int
VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: int
VIR_DOMAIN_EVENT_ID_CONTROL_ERROR: int
VIR_DOMAIN_EVENT_ID_BLOCK_JOB: int
VIR_DOMAIN_EVENT_ID_DISK_CHANGE: int
VIR_DOMAIN_EVENT_ID_TRAY_CHANGE: int
VIR_DOMAIN_EVENT_ID_PMWAKEUP: int
VIR_DOMAIN_EVENT_ID_PMSUSPEND: int
VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE: int
VIR_DOMAIN_EVENT_ID_PMSUSPEND_DISK: int
VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: int
VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2: int
VIR_DOMAIN_EVENT_ID_TUNABLE: int
VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: int
VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: int
VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION: int
VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: int
VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: int
VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: int
VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD: int
VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE: int
VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE: int

# virDomainEventIOErrorAction
VIR_DOMAIN_EVENT_IO_ERROR_NONE: int
VIR_DOMAIN_EVENT_IO_ERROR_PAUSE: int
VIR_DOMAIN_EVENT_IO_ERROR_REPORT: int

# virDomainEventPMSuspendedDetailType
VIR_DOMAIN_EVENT_PMSUSPENDED_MEMORY: int
VIR_DOMAIN_EVENT_PMSUSPENDED_DISK: int

# virDomainEventResumedDetailType
VIR_DOMAIN_EVENT_RESUMED_UNPAUSED: int
VIR_DOMAIN_EVENT_RESUMED_MIGRATED: int
VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT: int
VIR_DOMAIN_EVENT_RESUMED_POSTCOPY: int
VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED: int

# virDomainEventShutdownDetailType
VIR_DOMAIN_EVENT_SHUTDOWN_FINISHED: int
VIR_DOMAIN_EVENT_SHUTDOWN_GUEST: int
VIR_DOMAIN_EVENT_SHUTDOWN_HOST: int

# virDomainEventStartedDetailType
VIR_DOMAIN_EVENT_STARTED_BOOTED: int
VIR_DOMAIN_EVENT_STARTED_MIGRATED: int
VIR_DOMAIN_EVENT_STARTED_RESTORED: int
VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT: int
VIR_DOMAIN_EVENT_STARTED_WAKEUP: int

# virDomainEventStoppedDetailType
VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: int
VIR_DOMAIN_EVENT_STOPPED_DESTROYED: int
VIR_DOMAIN_EVENT_STOPPED_CRASHED: int
VIR_DOMAIN_EVENT_STOPPED_MIGRATED: int
VIR_DOMAIN_EVENT_STOPPED_SAVED: int
VIR_DOMAIN_EVENT_STOPPED_FAILED: int
VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT: int

# virDomainEventSuspendedDetailType
VIR_DOMAIN_EVENT_SUSPENDED_PAUSED: int
VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED: int
VIR_DOMAIN_EVENT_SUSPENDED_IOERROR: int
VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG: int
VIR_DOMAIN_EVENT_SUSPENDED_RESTORED: int
VIR_DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT: int
VIR_DOMAIN_EVENT_SUSPENDED_API_ERROR: int
VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY: int
VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED: int

# virDomainEventType
VIR_DOMAIN_EVENT_DEFINED: int
VIR_DOMAIN_EVENT_UNDEFINED: int
VIR_DOMAIN_EVENT_STARTED: int
VIR_DOMAIN_EVENT_SUSPENDED: int
VIR_DOMAIN_EVENT_RESUMED: int
VIR_DOMAIN_EVENT_STOPPED: int
VIR_DOMAIN_EVENT_SHUTDOWN: int
VIR_DOMAIN_EVENT_PMSUSPENDED: int
VIR_DOMAIN_EVENT_CRASHED: int

# virDomainEventUndefinedDetailType
VIR_DOMAIN_EVENT_UNDEFINED_REMOVED: int
VIR_DOMAIN_EVENT_UNDEFINED_RENAMED: int

# virDomainGetJobStatsFlags
VIR_DOMAIN_JOB_STATS_COMPLETED: int
VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED: int

# virDomainGuestInfoTypes
VIR_DOMAIN_GUEST_INFO_USERS: int
VIR_DOMAIN_GUEST_INFO_OS: int
VIR_DOMAIN_GUEST_INFO_TIMEZONE: int
VIR_DOMAIN_GUEST_INFO_HOSTNAME: int
VIR_DOMAIN_GUEST_INFO_FILESYSTEM: int
VIR_DOMAIN_GUEST_INFO_DISKS: int
VIR_DOMAIN_GUEST_INFO_INTERFACES: int

# virDomainJobOperation
VIR_DOMAIN_JOB_OPERATION_UNKNOWN: int
VIR_DOMAIN_JOB_OPERATION_START: int
VIR_DOMAIN_JOB_OPERATION_SAVE: int
VIR_DOMAIN_JOB_OPERATION_RESTORE: int
VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: int
VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: int
VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: int
VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: int
VIR_DOMAIN_JOB_OPERATION_DUMP: int
VIR_DOMAIN_JOB_OPERATION_BACKUP: int
VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE: int

# virDomainJobType
VIR_DOMAIN_JOB_NONE: int
VIR_DOMAIN_JOB_BOUNDED: int
VIR_DOMAIN_JOB_UNBOUNDED: int
VIR_DOMAIN_JOB_COMPLETED: int
VIR_DOMAIN_JOB_FAILED: int
VIR_DOMAIN_JOB_CANCELLED: int

# virDomainMetadataType
VIR_DOMAIN_METADATA_DESCRIPTION: int
VIR_DOMAIN_METADATA_TITLE: int
VIR_DOMAIN_METADATA_ELEMENT: int

# virDomainModificationImpact
VIR_DOMAIN_AFFECT_CURRENT: int
VIR_DOMAIN_AFFECT_LIVE: int
VIR_DOMAIN_AFFECT_CONFIG: int

# virDomainPausedReason
VIR_DOMAIN_PAUSED_UNKNOWN: int
VIR_DOMAIN_PAUSED_USER: int
VIR_DOMAIN_PAUSED_MIGRATION: int
VIR_DOMAIN_PAUSED_SAVE: int
VIR_DOMAIN_PAUSED_DUMP: int
VIR_DOMAIN_PAUSED_IOERROR: int
VIR_DOMAIN_PAUSED_WATCHDOG: int
VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: int
VIR_DOMAIN_PAUSED_SHUTTING_DOWN: int
VIR_DOMAIN_PAUSED_SNAPSHOT: int
VIR_DOMAIN_PAUSED_CRASHED: int
VIR_DOMAIN_PAUSED_STARTING_UP: int
VIR_DOMAIN_PAUSED_POSTCOPY: int
VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: int

# virDomainRunningReason
VIR_DOMAIN_RUNNING_UNKNOWN: int
VIR_DOMAIN_RUNNING_BOOTED: int
VIR_DOMAIN_RUNNING_MIGRATED: int
VIR_DOMAIN_RUNNING_RESTORED: int
VIR_DOMAIN_RUNNING_FROM_SNAPSHOT: int
VIR_DOMAIN_RUNNING_UNPAUSED: int
VIR_DOMAIN_RUNNING_MIGRATION_CANCELED: int
VIR_DOMAIN_RUNNING_SAVE_CANCELED: int
VIR_DOMAIN_RUNNING_WAKEUP: int
VIR_DOMAIN_RUNNING_CRASHED: int
VIR_DOMAIN_RUNNING_POSTCOPY: int
VIR_DOMAIN_RUNNING_POSTCOPY_FAILED: int

# virDomainSaveImageXMLFlags
VIR_DOMAIN_SAVE_IMAGE_XML_SECURE: int

# virDomainSaveRestoreFlags
VIR_DOMAIN_SAVE_BYPASS_CACHE: int
VIR_DOMAIN_SAVE_RUNNING: int
VIR_DOMAIN_SAVE_PAUSED: int
VIR_DOMAIN_SAVE_RESET_NVRAM: int

# virDomainShutdownFlagValues
VIR_DOMAIN_SHUTDOWN_DEFAULT: int
VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN: int
VIR_DOMAIN_SHUTDOWN_GUEST_AGENT: int
VIR_DOMAIN_SHUTDOWN_INITCTL: int
VIR_DOMAIN_SHUTDOWN_SIGNAL: int
VIR_DOMAIN_SHUTDOWN_PARAVIRT: int

# virDomainShutdownReason
VIR_DOMAIN_SHUTDOWN_UNKNOWN: int
VIR_DOMAIN_SHUTDOWN_USER: int

# virDomainShutoffReason
VIR_DOMAIN_SHUTOFF_UNKNOWN: int
VIR_DOMAIN_SHUTOFF_SHUTDOWN: int
VIR_DOMAIN_SHUTOFF_DESTROYED: int
VIR_DOMAIN_SHUTOFF_CRASHED: int
VIR_DOMAIN_SHUTOFF_MIGRATED: int
VIR_DOMAIN_SHUTOFF_SAVED: int
VIR_DOMAIN_SHUTOFF_FAILED: int
VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: int
VIR_DOMAIN_SHUTOFF_DAEMON: int

# virDomainSnapshotCreateFlags
VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE: int
VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT: int
VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA: int
VIR_DOMAIN_SNAPSHOT_CREATE_HALT: int
VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY: int
VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT: int
VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE: int
VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC: int
VIR_DOMAIN_SNAPSHOT_CREATE_LIVE: int
VIR_DOMAIN_SNAPSHOT_CREATE_VALIDATE: int

# virDomainSnapshotDeleteFlags
VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN: int
VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY: int
VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN_ONLY: int

# virDomainSnapshotListFlags
VIR_DOMAIN_SNAPSHOT_LIST_DESCENDANTS: int
VIR_DOMAIN_SNAPSHOT_LIST_ROOTS: int
VIR_DOMAIN_SNAPSHOT_LIST_METADATA: int
VIR_DOMAIN_SNAPSHOT_LIST_LEAVES: int
VIR_DOMAIN_SNAPSHOT_LIST_NO_LEAVES: int
VIR_DOMAIN_SNAPSHOT_LIST_NO_METADATA: int
VIR_DOMAIN_SNAPSHOT_LIST_INACTIVE: int
VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE: int
VIR_DOMAIN_SNAPSHOT_LIST_DISK_ONLY: int
VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL: int
VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL: int
VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL: int

# virDomainSnapshotRevertFlags
VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING: int
VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED: int
VIR_DOMAIN_SNAPSHOT_REVERT_FORCE: int
VIR_DOMAIN_SNAPSHOT_REVERT_RESET_NVRAM: int

# virDomainSnapshotXMLFlags
VIR_DOMAIN_SNAPSHOT_XML_SECURE: int

# virDomainState
VIR_DOMAIN_NOSTATE: int
VIR_DOMAIN_RUNNING: int
VIR_DOMAIN_BLOCKED: int
VIR_DOMAIN_PAUSED: int
VIR_DOMAIN_SHUTDOWN: int
VIR_DOMAIN_SHUTOFF: int
VIR_DOMAIN_CRASHED: int
VIR_DOMAIN_PMSUSPENDED: int

# virDomainStatsTypes
VIR_DOMAIN_STATS_STATE: int
VIR_DOMAIN_STATS_BLOCK: int

# virDomainUndefineFlagsValues
VIR_DOMAIN_UNDEFINE_MANAGED_SAVE: int
VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA: int
VIR_DOMAIN_UNDEFINE_NVRAM: int
VIR_DOMAIN_UNDEFINE_KEEP_NVRAM: int
VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA: int
VIR_DOMAIN_UNDEFINE_TPM: int
VIR_DOMAIN_UNDEFINE_KEEP_TPM: int

# virDomainXMLFlags
VIR_DOMAIN_XML_SECURE: int
VIR_DOMAIN_XML_INACTIVE: int
VIR_DOMAIN_XML_UPDATE_CPU: int
VIR_DOMAIN_XML_MIGRATABLE: int

# virErrorDomain
VIR_FROM_NONE: int
VIR_FROM_XML: int
VIR_FROM_DOM: int
VIR_FROM_RPC: int
VIR_FROM_CONF: int
VIR_FROM_QEMU: int
VIR_FROM_REMOTE: int
VIR_FROM_STORAGE: int
VIR_FROM_SECURITY: int
VIR_FROM_DOMAIN_SNAPSHOT: int
VIR_FROM_EVENT: int
VIR_FROM_ACCESS: int
VIR_FROM_SYSTEMD: int
VIR_FROM_POLKIT: int
VIR_FROM_THREAD: int
VIR_FROM_DOMAIN_CHECKPOINT: int

# virErrorLevel
VIR_ERR_NONE: int
VIR_ERR_WARNING: int
VIR_ERR_ERROR: int

# virErrorNumber
VIR_ERR_OK: int
VIR_ERR_INTERNAL_ERROR: int
VIR_ERR_NO_MEMORY: int
VIR_ERR_NO_SUPPORT: int
VIR_ERR_UNKNOWN_HOST: int
VIR_ERR_NO_CONNECT: int
VIR_ERR_INVALID_CONN: int
VIR_ERR_INVALID_DOMAIN: int
VIR_ERR_INVALID_ARG: int
VIR_ERR_OPERATION_FAILED: int
VIR_ERR_GET_FAILED: int
VIR_ERR_POST_FAILED: int
VIR_ERR_HTTP_ERROR: int
VIR_ERR_SEXPR_SERIAL: int
VIR_ERR_NO_XEN: int
VIR_ERR_XEN_CALL: int
VIR_ERR_OS_TYPE: int
VIR_ERR_NO_KERNEL: int
VIR_ERR_NO_ROOT: int
VIR_ERR_NO_SOURCE: int
VIR_ERR_NO_TARGET: int
VIR_ERR_NO_NAME: int
VIR_ERR_NO_OS: int
VIR_ERR_NO_DEVICE: int
VIR_ERR_NO_XENSTORE: int
VIR_ERR_DRIVER_FULL: int
VIR_ERR_CALL_FAILED: int
VIR_ERR_XML_ERROR: int
VIR_ERR_DOM_EXIST: int
VIR_ERR_OPERATION_DENIED: int
VIR_ERR_OPEN_FAILED: int
VIR_ERR_READ_FAILED: int
VIR_ERR_PARSE_FAILED: int
VIR_ERR_CONF_SYNTAX: int
VIR_ERR_WRITE_FAILED: int
VIR_ERR_XML_DETAIL: int
VIR_ERR_INVALID_NETWORK: int
VIR_ERR_NETWORK_EXIST: int
VIR_ERR_SYSTEM_ERROR: int
VIR_ERR_RPC: int
VIR_ERR_GNUTLS_ERROR: int
VIR_ERR_NO_DOMAIN: int
VIR_ERR_NO_NETWORK: int
VIR_ERR_INVALID_MAC: int
VIR_ERR_AUTH_FAILED: int
VIR_ERR_INVALID_STORAGE_POOL: int
VIR_ERR_INVALID_STORAGE_VOL: int
VIR_ERR_NO_STORAGE_POOL: int
VIR_ERR_NO_STORAGE_VOL: int
VIR_ERR_INVALID_NODE_DEVICE: int
VIR_ERR_NO_NODE_DEVICE: int
VIR_ERR_NO_SECURITY_MODEL: int
VIR_ERR_OPERATION_INVALID: int
VIR_ERR_NO_INTERFACE: int
VIR_ERR_INVALID_INTERFACE: int
VIR_ERR_MULTIPLE_INTERFACES: int
VIR_ERR_INVALID_NWFILTER: int
VIR_ERR_NO_NWFILTER: int
VIR_ERR_BUILD_FIREWALL: int
VIR_ERR_INVALID_SECRET: int
VIR_ERR_NO_SECRET: int
VIR_ERR_CONFIG_UNSUPPORTED: int
VIR_ERR_OPERATION_TIMEOUT: int
VIR_ERR_MIGRATE_PERSIST_FAILED: int
VIR_ERR_HOOK_SCRIPT_FAILED: int
VIR_ERR_INVALID_DOMAIN_SNAPSHOT: int
VIR_ERR_NO_DOMAIN_SNAPSHOT: int
VIR_ERR_INVALID_STREAM: int
VIR_ERR_ARGUMENT_UNSUPPORTED: int
VIR_ERR_STORAGE_PROBE_FAILED: int
VIR_ERR_STORAGE_POOL_BUILT: int
VIR_ERR_SNAPSHOT_REVERT_RISKY: int
VIR_ERR_OPERATION_ABORTED: int
VIR_ERR_AUTH_CANCELLED: int
VIR_ERR_NO_DOMAIN_METADATA: int
VIR_ERR_MIGRATE_UNSAFE: int
VIR_ERR_OVERFLOW: int
VIR_ERR_BLOCK_COPY_ACTIVE: int
VIR_ERR_OPERATION_UNSUPPORTED: int
VIR_ERR_SSH: int
VIR_ERR_AGENT_UNRESPONSIVE: int
VIR_ERR_RESOURCE_BUSY: int
VIR_ERR_ACCESS_DENIED: int
VIR_ERR_DBUS_SERVICE: int
VIR_ERR_STORAGE_VOL_EXIST: int
VIR_ERR_CPU_INCOMPATIBLE: int
VIR_ERR_XML_INVALID_SCHEMA: int
VIR_ERR_MIGRATE_FINISH_OK: int
VIR_ERR_AUTH_UNAVAILABLE: int
VIR_ERR_NO_SERVER: int
VIR_ERR_NO_CLIENT: int
VIR_ERR_AGENT_UNSYNCED: int
VIR_ERR_LIBSSH: int
VIR_ERR_DEVICE_MISSING: int
VIR_ERR_INVALID_NWFILTER_BINDING: int
VIR_ERR_NO_NWFILTER_BINDING: int
VIR_ERR_INVALID_DOMAIN_CHECKPOINT: int
VIR_ERR_NO_DOMAIN_CHECKPOINT: int
VIR_ERR_NO_DOMAIN_BACKUP: int
VIR_ERR_INVALID_NETWORK_PORT: int
VIR_ERR_NETWORK_PORT_EXIST: int
VIR_ERR_NO_NETWORK_PORT: int
VIR_ERR_NO_HOSTNAME: int
VIR_ERR_CHECKPOINT_INCONSISTENT: int
VIR_ERR_MULTIPLE_DOMAINS: int

# virEventHandleType
VIR_EVENT_HANDLE_READABLE: int
VIR_EVENT_HANDLE_WRITABLE: int
VIR_EVENT_HANDLE_ERROR: int
VIR_EVENT_HANDLE_HANGUP: int

# virStoragePoolState
VIR_STORAGE_POOL_INACTIVE: int
VIR_STORAGE_POOL_BUILDING: int
VIR_STORAGE_POOL_RUNNING: int
VIR_STORAGE_POOL_DEGRADED: int
VIR_STORAGE_POOL_INACCESSIBLE: int

# virStorageVolType
VIR_STORAGE_VOL_FILE: int
VIR_STORAGE_VOL_BLOCK: int
VIR_STORAGE_VOL_DIR: int
VIR_STORAGE_VOL_NETWORK: int
VIR_STORAGE_VOL_NETDIR: int
VIR_STORAGE_VOL_PLOOP: int

# virStorageXMLFlags
VIR_STORAGE_XML_INACTIVE: int

# virVcpuState
VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: str
VIR_DOMAIN_BLOCK_COPY_BUF_SIZE: str
VIR_DOMAIN_BLOCK_COPY_GRANULARITY: str
VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE: str
VIR_DOMAIN_JOB_COMPRESSION_BYTES: str
VIR_DOMAIN_JOB_COMPRESSION_CACHE: str
VIR_DOMAIN_JOB_COMPRESSION_CACHE_MISSES: str
VIR_DOMAIN_JOB_COMPRESSION_OVERFLOW: str
VIR_DOMAIN_JOB_COMPRESSION_PAGES: str
VIR_DOMAIN_JOB_DATA_PROCESSED: str
VIR_DOMAIN_JOB_DATA_REMAINING: str
VIR_DOMAIN_JOB_DATA_TOTAL: str
VIR_DOMAIN_JOB_DISK_BPS: str
VIR_DOMAIN_JOB_DISK_PROCESSED: str
VIR_DOMAIN_JOB_DISK_REMAINING: str
VIR_DOMAIN_JOB_DISK_TEMP_TOTAL: str
VIR_DOMAIN_JOB_DISK_TEMP_USED: str
VIR_DOMAIN_JOB_DISK_TOTAL: str
VIR_DOMAIN_JOB_DOWNTIME: str
VIR_DOMAIN_JOB_DOWNTIME_NET: str
VIR_DOMAIN_JOB_ERRMSG: str
VIR_DOMAIN_JOB_MEMORY_BPS: str
VIR_DOMAIN_JOB_MEMORY_CONSTANT: str
VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE: str
VIR_DOMAIN_JOB_MEMORY_ITERATION: str
VIR_DOMAIN_JOB_MEMORY_NORMAL: str
VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES: str
VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE: str
VIR_DOMAIN_JOB_MEMORY_POSTCOPY_REQS: str
VIR_DOMAIN_JOB_MEMORY_PROCESSED: str
VIR_DOMAIN_JOB_MEMORY_REMAINING: str
VIR_DOMAIN_JOB_MEMORY_TOTAL: str
VIR_DOMAIN_JOB_OPERATION: str
VIR_DOMAIN_JOB_SETUP_TIME: str
VIR_DOMAIN_JOB_SUCCESS: str
VIR_DOMAIN_JOB_TIME_ELAPSED: str
VIR_DOMAIN_JOB_TIME_ELAPSED_NET: str
VIR_DOMAIN_JOB_TIME_REMAINING: str
VIR_DOMAIN_SAVE_PARAM_DXML: str
VIR_DOMAIN_SAVE_PARAM_FILE: str
