package condition

// onHost finds conditions of one node. The agent also examines its node in the background, so that drover status, the
// metrics and the health of the cluster have the warnings and errors of all nodes.
const onHost source = "drover doctor"

// The agent and its host.
var (
	ExaminationHangs = onHost.warning("examination-hangs", "the examination of this host has not ended for %v; %v",
		"the examination ends").fix("drover doctor on that host, and its kernel log (dmesg)")
	RootFailing = onHost.error("root-failing", "mounts and unmounts are refused: %v",
		"the agent can write its database").
		fix("containers keep their volumes; repair or replace the disk, then restart drover")
	RootUnreadable = onHost.error("root-unreadable", "%v", "the folder can be read")
	RootFull       = onHost.error("root-full", "creates are refused: the disk of %v is nearly full: %v free of %v",
		"enough space is free")
	RootFilling = onHost.warning("root-filling",
		"the disk of %v is filling up: %v free of %v; below %v creates are refused", "enough space is free")
	RootWorks   = onHost.ok("root-works", "%v free of %v on the disk of %v")
	WorkSlow    = onHost.info("work-slow", "has been running for %v", "the work ends")
	WorkHanging = onHost.warning("work-hanging",
		"has been running for %v, and %v in the kernel (state D), where it cannot be ended", "the work ends").
		fix("check the disk (dmesg), and for a frozen filesystem: fsfreeze -u")
	ProfilesNotReloaded = onHost.error("profiles-not-reloaded", "reload failed; keeping previous profiles: %v",
		"a reload succeeds")
	ProfilesMissing = onHost.error("profiles-missing",
		"the file was removed, so the next start will fail; the loaded profiles apply: %v", "the file exists again")
	ProfilesInvalid = onHost.error("profiles-invalid",
		"the file cannot be loaded any more, so the next start will fail; the loaded profiles apply: %v",
		"the file can be loaded")
	ProfilesRemoved = onHost.warning("profiles-removed",
		"%v was removed: the next start will use the built-in profiles",
		"the file exists again, or a reload").
		fix("restore it, or load the built-in profiles now: systemctl reload drover")
	ProfilesChanged = onHost.warning("profiles-changed",
		"%v has changed since it was loaded: the change does not apply yet", "a reload").
		fix("systemctl reload drover (on a control host: drover-control)")
)

// The connection to control and to the guard.
var (
	ControlUnreachable = onHost.error("control-unreachable", "does not respond: %v (mounted volumes keep working)",
		"control responds").alert("DroverSessionNotRenewed").
		fix("start drover control, and check the network between its hosts and this one")
	NodeRefused = onHost.error("node-refused",
		"responds, and does not accept this node: %v (mounted volumes keep working)", "control accepts the node")
	ControlResponds           = onHost.ok("control-responds", "responds; %v datasets have their home here")
	ControlReplicaUnreachable = onHost.warning("control-replica-unreachable", "does not answer: %v",
		"the replica answers a heartbeat").alert("DroverControlReplicaDown").
		fix("start drover control on that host, and check the network")
	CertificateExpired = onHost.error("certificate-expired",
		"the certificate of this host expired at %v: control and other hosts refuse this host",
		"it has a new certificate").
		fix(renewCertificate)
	CertificateExpires = onHost.warning("certificate-expires",
		"the certificate of this host expires at %v and was not renewed", "it has a new certificate").
		fix(renewCertificate).alert("DroverCertificateExpires")
	StoreHalted = onHost.error("store-halted", "%v", "the store was recovered, or is up to date again").
			alert("DroverStoreHalted")
	StoreFileDamaged = onHost.warning("store-file-damaged", "%v could not be read and was moved aside",
		"the file is removed")
	FenceProgramRefused = onHost.warning("fence-program-refused",
		"volumes of profiles that name this fence program (%v) do not fail over to this node: %v",
		"the program can be run, or no profile names it")
	GuardMissing = onHost.error("guard-missing",
		"%v: no volume with failover auto is placed on this host, or mounted; "+
			"%v of them have their home or a copy here", "the guard answers").alert("DroverGuardMissing")
	GuardUnneeded = onHost.info("guard-unneeded",
		"%v: no volume with failover auto is placed on this host, or mounted", "the guard answers")
	GuardReduced = onHost.warning("guard-reduced", "has reduced protection: %v", "the guard has what it lacks").
			fix("run it with its systemd unit, on the host itself")
	GuardResponds = onHost.ok("guard-responds", "responds; it can fence %v datasets")
	VolumeFenced  = onHost.error("volume-fenced",
		"is %v: nobody may write to it until control, or every node with a copy, confirms the lease",
		"the lease is confirmed").alert("DroverVolumeFenced").
		fix("drover doctor shows why control does not answer; drover guard ls shows the fences of this host")
)

const renewCertificate = "check that control is reachable; for a new certificate: drover node token, and join again"

// Backends and pools.
var (
	BackendWorks       = onHost.ok("backend-works", "works on this host")
	BackendUnavailable = onHost.info("backend-unavailable", "cannot work on this host: %v", "the backend can work")
	BackendBroken      = onHost.warning("backend-broken", "cannot work on this host: %v",
		"the backend can work, or no pool needs it")
	BackendLimited = onHost.warning("backend-limited",
		"existing pools work on this host, but new ones cannot be created: %v", "the backend can create pools")
	PoolWorks   = onHost.ok("pool-works", "%v free of %v at %v; %v")
	PoolHanging = onHost.error("pool-hanging", "did not respond within %v: its disk hangs", "the disk responds").
			fix("check its disk (dmesg)")
	PoolLeaving = onHost.error("pool-leaving", "is being removed, and serves nothing: %v", "the pool is removed")
	PoolOffline = onHost.error("pool-offline", "is offline: %v", "the pool is online").alert("DroverPoolOffline")
	PoolHeld    = onHost.error("pool-held", "is held: nothing in it is mounted or changed: %v",
		"the pool is accepted, or has the newer disk").alert("DroverPoolHeld")
	PoolFailing = onHost.error("pool-failing", "%v", "the pool works as it should")
	PoolRefuses = onHost.error("pool-refuses-creates", "creates are refused: %v", "enough space is free")
	PoolFull    = onHost.error("pool-full", "FULL: %v", "enough space is free").alert("DroverPoolFull")
	PoolFilling = onHost.warning("pool-nearly-full", "NEARLY FULL: %v", "enough space is free").
			alert("DroverPoolNearlyFull")
	PoolOvercommitted = onHost.info("pool-overcommitted",
		"its volumes may become %v large, and it has %v: overcommit %v", "its volumes fit, or it has a limit")
	PoolOverLimit = onHost.warning("pool-over-limit",
		"its volumes may become %v large, and it has %v: overcommit %v, more than %v",
		"its volumes are within its limit").
		fix("enlarge the pool, or move volumes to another one (drover pool ls)")
	PoolShared      = onHost.ok("pool-shared", "is on one filesystem with %v: they share its free space")
	SharedOverLimit = onHost.warning("pool-shared-over-limit",
		"is on one filesystem with %v: they share its free space, "+
			"and their volumes may become %v large together: overcommit %v, more than %v",
		"their volumes are within its limit").
		fix("move volumes to a pool on another disk (drover pool ls)")
	PoolUnlocked = onHost.warning("pool-unlocked", "is served, but not locked against another drover: %v",
		"the pool is locked").fix("end that process, then restart drover")
	PoolUnlistable = onHost.error("pool-unlistable", "cannot be listed: %v", "the pool can be listed")
	PoolInMemory   = onHost.warning("pool-in-memory", "%v", "the pool is on a disk").
			fix("move its volumes to a pool on a disk, unless losing them is acceptable")
	PoolWarning      = onHost.warning("pool-warning", "%v", "its backend no longer warns")
	PoolLimits       = onHost.ok("pool-limits", "limits of backend %v: %v")
	PoolCouldDoMore  = onHost.ok("pool-could-do-more", "could do more on this host: %v")
	SnapshotsSkipped = onHost.warning("snapshots-skipped", "volumes without scheduled snapshots: %v: %v",
		"enough space is free").fix("drover trash ls and drover snapshot ls --size list what can be freed")
	SnapshotsBlock = onHost.warning("snapshots-block", "a snapshot would block its writers for about %v (%v)",
		"its snapshots are fast again")
	PoolVerified = onHost.info("pool-verified", "is being verified in %v (drover backend verify)",
		"the verification ends")
	VerifyLeft  = onHost.warning("verify-left", "a drover backend verify that was killed left %v", "it is removed")
	PoolForeign = onHost.warning("pool-foreign", "%v is not Drover's, and is left unchanged: %v",
		"it is not in the pool")
)

// Datasets and snapshots in the pools, compared with the records of control.
var (
	DatasetDamaged   = onHost.error("dataset-damaged", "volume %v: %v", "the dataset can be used")
	DatasetUncertain = onHost.warning("dataset-uncertain",
		"is in pool %v as %v, created shortly before the records were "+
			"lost: it may have been acknowledged, and is kept", "it is adopted or destroyed")
	DatasetWithFiles = onHost.warning("dataset-with-foreign-files",
		"was interrupted by a crash, and is not removed, because %v contains foreign files: %v", "the files are moved").
		fix("move these files away, then restart drover")
	DatasetDiscarded = onHost.info("dataset-discarded", "is deleted, and its bytes are being removed (%v)",
		"it is removed")
	DatasetInterrupted = onHost.info("dataset-interrupted",
		"was interrupted by a crash; the next start of drover removes it (%v)", "it is removed")
	DatasetUnknown = onHost.warning("dataset-unknown", "is in pool %v as %v but not in the store: quarantined",
		"it is adopted or destroyed")
	DatasetElsewhere = onHost.warning("dataset-elsewhere", "is in pool %v as %v, and its home is another node: it is "+
		"kept, because that node may not have taken it from here yet", "its home has taken it")
	DatasetUnclear = onHost.warning("dataset-unclear", "is in pool %v as %v, and is kept: %v", "control knows its home")
	DatasetMissing = onHost.error("dataset-missing", "volume %v is recorded in pool %v but missing there",
		"the dataset is there, or its record is removed")
	DatasetPending = onHost.warning("dataset-pending-deletion",
		"of volume %v is pending deletion since %v, and its data still exists: %v", "its data is removed").
		fix("drover trash ls shows it; the deletion is tried again within ten minutes")
	SnapshotsUnreadable = onHost.error("snapshots-unreadable", "cannot list its snapshots: %v", "control lists them")
	SnapshotUnknown     = onHost.warning("snapshot-unknown",
		"is in pool %v as one of volume %v but not in the store: quarantined", "it is adopted or removed")
	SnapshotMissing = onHost.error("snapshot-missing", "of volume %v is recorded but missing in pool %v",
		"the snapshot is there, or its record is removed")
	CopyDamaged = onHost.error("copy-damaged", "the copy of %v in pool %v: %v", "the copy can be used")
	CopyUnknown = onHost.warning("copy-unknown", "is in pool %v as a copy of %v but not in the store: quarantined",
		"it is destroyed")
	CopySuperseded = onHost.warning("copy-superseded",
		"node %v keeps a superseded copy, with data that the volume does not have", "the copy is discarded").
		fix("drover copy ls").alert("DroverSupersededCopy")
	SupersededInUse = onHost.error("superseded-copy-in-use",
		"continued on another node (epoch %v ended here), but is in "+
			"use here by %v: their writes are kept as a superseded snapshot once they stop",
		"its containers here stop").
		fix("stop its containers here")
	CopyInspected = onHost.info("copy-inspected", "shows the superseded copy of volume %v, read-only, as requested",
		"the operator ends it")
	MoveUnfinished = onHost.info("move-unfinished",
		"an unfinished move left a part of it in pool %v, for a retry; it is removed after %v", "it is removed or used")
	ReplicaPoolMissing = onHost.error("replica-pool-missing",
		"has a replica recorded in pool %v, which does not exist on this node",
		"the pool is back, or the replica moved")
	ReplicaBehind = onHost.warning("replica-not-refreshed", "cannot refresh its replica here, retrying: %v",
		"a refresh succeeds")
	ReplicaBuilding = onHost.info("replica-building", "degraded: building replica on this node%v", "it is complete")
)

// Volumes and their mounts.
var (
	MountsUnreadable = onHost.error("mounts-unreadable", "cannot be read: %v", "the mounts can be read")
	MountsWork       = onHost.ok("mounts-work", "%v datasets are mounted")
	MountUnverified  = onHost.info("mount-unverified",
		"mount %v may have ended and is unverified: the engine restarted "+
			"since, or unmounted it while a process still had it mounted%v",
		"the engine or the end of the process confirms it")
	MountUnused = onHost.info("mount-unused", "no recorded use; it is unmounted once no process has it mounted",
		"it is unmounted")
	MountHeld = onHost.warning("mount-held", "no recorded use; it is unmounted once no process has it mounted%v",
		"it is unmounted")
	VolumeNotMounted = onHost.error("volume-not-mounted", "is in use by %v but not mounted at %v", "it is mounted").
				fix("restart its containers: their start mounts it again")
	TrashInUse = onHost.error("trashed-volume-in-use",
		"was deleted while this host was confirmed as fenced, but is in use "+
			"here by %v%v: what they write goes to the trash, and is destroyed with it (dataset %v)",
		"its containers stop, or it is restored")
	VolumeDiskFailing  = onHost.error("volume-disk-failing", "%v", "it is mounted again")
	SharedMountRefused = onHost.error("shared-mount-refused", "is mounted here beside its home, and %v",
		"its containers here stop").fix("stop its containers here")
	VolumeFull    = onHost.error("volume-full", "FULL: %v", "enough space is free").alert("DroverVolumeFull")
	VolumeFilling = onHost.warning("volume-nearly-full", "NEARLY FULL: %v", "enough space is free").
			alert("DroverVolumeNearlyFull")
	VolumeSizeDiffers = onHost.error("volume-size-differs", "%v", "it has its recorded size")
	WritesLost        = onHost.error("writes-lost", "%v", "its containers were started again")

	ThrottlingUnavailable = onHost.info("throttling-unavailable", "volumes with qos are refused: %v",
		"limits can be set").
		fix("mount a control group hierarchy with the controllers io and memory (systemd does; " +
			"cgroup_enable=memory on the kernel's command line), or boot a kernel with CONFIG_BLK_DEV_THROTTLING")
	ThrottlingV1     = onHost.ok("throttling-v1", "%v (%v); profiles with qos strict are refused")
	ThrottlingWorks  = onHost.ok("throttling-works", "v2: for all containers in %v together, from their start (%v)")
	ThrottlingBroken = onHost.error("throttling-broken", "v2: %v", "limits can be set")
	ThrottlingLater  = onHost.info("throttling-later",
		"v2: none of the control groups %v (cgroup_parents in drover.yaml) "+
			"has the controller io yet; the first mount of a volume with qos enables it",
		"a volume with qos is mounted")
	ThrottleFailed = onHost.error("throttle-failed",
		"cannot throttle it as its profile requires: %v; retrying every %v",
		"the limits are set")
	ThrottleSuspended = onHost.info("throttle-suspended", "throttling is suspended for a flush since %v",
		"the flush ends")
	ThrottleUnknown = onHost.error("throttle-unknown", "cannot read whether it is throttled: %v",
		"the limits can be read")
	ThrottleLost = onHost.error("throttle-lost",
		"it is not throttled in the control groups %v; checked again every %v", "the limits are set")
	ThrottleWithout = onHost.error("throttle-without-controller", "%v", "the controller io is enabled there").
			fix(addParent)
	ThrottleEscaped = onHost.error("throttle-escaped", "%v", "it is used only in the configured groups").fix(addParent)
	ThrottleApart   = onHost.warning("throttle-apart", "is used in control group %v, which is outside of %v: it is "+
		"throttled separately there, from about a second after its start", "it is used only in the configured groups").
		fix(addParent)
)

const addParent = "add a parent of it to cgroup_parents of drover.yaml"

// Keys.
var (
	EncryptionWorks       = onHost.ok("encryption-works", "works on this host")
	EncryptionUnavailable = onHost.info("encryption-unavailable", "cannot work on this host: %v", "encryption works")
	EncryptionForCopies   = onHost.warning("encryption-needed-by-copies", "cannot work on this host: %v",
		"encryption works")
	EncryptionMissing = onHost.error("encryption-missing", "cannot work on this host: %v", "encryption works")
	KeyWorks          = onHost.ok("key-works", "is key %v")
	KeyUnneeded       = onHost.info("key-unneeded", "not found here: %v%v", "the key is found, or not named")
	KeyForCopies      = onHost.warning("key-needed-by-copies", "not found here: %v%v",
		"the key is found, or not needed")
	KeyMissing   = onHost.error("key-missing", "not found here: %v%v", "the key is found, or not needed")
	KeyPlaceLost = onHost.error("key-place-lost",
		"cannot be mounted: the location of its key was lost with its "+
			"record; its data key is wrapped by key %v", "a rekey succeeds")
	KeyDiffers = onHost.error("key-differs", "cannot be mounted: its data key is wrapped by key %v, and %v is key %v",
		"the key is back, or a rekey succeeds")
	KeyOfCopyDiffers = onHost.warning("key-of-copy-differs", "could not be mounted if this node became its home: its "+
		"data key is wrapped by key %v, and %v is key %v here", "the key is copied").
		fix("copy the key from the home of the volume")
	KeyReplaced = onHost.warning("key-replaced", "still needs key %v of %v: its profile now names another key",
		"a rekey succeeds")
	KeyOfRecordDiffers = onHost.warning("key-of-record-differs",
		"volume %v: its record in pool %v still needs key %v, but control's record needs key %v: keep the old key",
		"the record beside the data is written again")
)

// Backups.
var (
	RepositoryUnreachable = onHost.warning("repository-unreachable", "this host cannot open it since %v UTC: %v",
		"the host opens it")
	RepositoryAppendOnly = onHost.warning("repository-append-only", "it is append-only: backups that are expired, "+
		"incomplete or withdrawn stay in it, and drover does not try to remove further ones", "a restart of drover").
		fix("remove old backups on its server, and use profiles without keep; then systemctl restart drover")
	ExpiredBackupsStay = onHost.warning("expired-backups-stay", "%v expired backups stay in it: each attempt to "+
		"remove them failed, and drover makes no more (see the log)", "a restart of drover").
		fix("find out what uses it all the time, and remove them: drover backup ls, drover backup rm")
	CloneHeld = onHost.warning("backup-clone-held",
		"the clone that an ended backup has read takes up to %v, and cannot be removed: %v", "the clone is removed").
		fix("end what uses the clone: it is removed within a minute")
)
