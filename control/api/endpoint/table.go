package endpoint

import (
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Volumes.
var (
	ListVolumes = row[VolumePage, api.List[api.Volume]](
		viewer, "list-volumes", "GET /v1/volumes", "volumes", "List volumes by name",
		"Volumes whose name was deleted are in the trash. With the header Prefer: return=minimal (RFC "+
			"7240), an item has only the UUID, names, state, labels, size and status of the volume, the "+
			"name, size, access and replicas of its profile, its node and pool, and the number of "+
			"snapshots. With Prefer: return=minimal, health, it also has the UUIDs of its home and pool, "+
			"its copies, and why replicas are missing.")
	GetVolume = row[VolumeParam, api.Volume](
		viewer, "get-volume", "GET /v1/volumes/{volume}", "volumes", "Show a volume",
		"The answer includes the last report of the agent of the volume's home.")
	CreateVolume = row[Change[api.CreateVolume], api.Outcome](
		worker, "create-volume", "POST /v1/volumes", "volumes", "Create a volume",
		"If the volume already exists as requested, that is no error.", starts)
	DeleteVolume = row[DeletedVolume, api.Outcome](
		worker, "delete-volume", "DELETE /v1/volumes/{volume}", "volumes", "Delete a volume",
		"Its profile says whether the data goes to the trash.", starts)
	ResizeVolume = row[VolumeChange[api.ResizeVolume], api.Outcome](
		worker, "resize-volume", "POST /v1/volumes/{volume}/resize", "volumes", "Resize a volume",
		"Not every backend can make a volume smaller, or change its size while it is mounted.", starts)
	RekeyVolume = row[VolumeChange[api.RekeyVolume], api.Outcome](
		worker, "rekey-volume", "POST /v1/volumes/{volume}/rekey", "volumes",
		"Encrypt a volume's data key with the current key of its profile", "The data itself is not changed.", starts)
	VerifyBackup = row[VolumeChange[api.VerifyBackup], api.Outcome](
		worker, "verify-backup", "POST /v1/volumes/{volume}/verify", "volumes",
		"Restore a backup into a temporary volume, and compare",
		"The path has the name of the volume that was backed up. It need not exist. The temporary "+
			"volume is not listed, has no name, and is removed at the end, or after the next start of its "+
			"host.", starts)
	BackUpVolume = row[VolumeChange[api.BackUpVolume], api.Outcome](
		worker, "back-up-volume", "POST /v1/volumes/{volume}/backups", "volumes", "Back up a volume to a repository",
		"The backup has the content of one moment. The volume can be in use. The operation has the ID "+
			"of the backup.", starts)
	PushVolume = row[VolumeChange[api.PushVolume], api.Outcome](
		worker, "push-volume", "POST /v1/volumes/{volume}/pushes", "volumes", "Push a volume to a repository",
		"The volume can be in use. The push is refused if the name in the repository has a version "+
			"that the volume does not continue. The ID of the operation becomes that of the version.", starts)
	SetVolumeProfile = row[VolumeChange[api.SetProfile], api.Outcome](
		worker, "set-volume-profile", "POST /v1/volumes/{volume}/set-profile", "volumes",
		"Change the profile of a volume",
		"Refused if the profile excludes a fixed property of the volume, such as its backend.", starts)
	RenameVolume = row[VolumeChange[api.RenameVolume], api.Outcome](
		worker, "rename-volume", "POST /v1/volumes/{volume}/rename", "volumes", "Rename a volume",
		"The former name becomes an alias: it still finds the volume, until the alias is dropped. The "+
			"data, the mounts and the UUID of the volume stay. Idempotent.", starts)
	DropAlias = row[DroppedAlias, api.Outcome](
		worker, "drop-alias", "DELETE /v1/volumes/{volume}/aliases/{alias}", "volumes", "Drop an alias of a volume",
		"The alias no longer finds the volume, and its name is free. The data stays.", starts)
	ProtectVolume = row[VolumeChange[api.ProtectVolume], api.Outcome](
		worker, "protect-volume", "POST /v1/volumes/{volume}/protect", "volumes",
		"Protect a volume from deletion, or end the protection",
		"A protected volume is deleted only with force.", starts)
	ImportVolume = row[VolumeChange[api.ImportVolume], api.Outcome](
		worker, "import-volume", "POST /v1/volumes/{volume}/import", "volumes",
		"Create a volume from a folder or a backup", "The path has the spec of the new volume.", starts)
	ExportVolume = row[ExportParams, None](
		exporter, "export-volume", "GET /v1/volumes/{volume}/export", "volumes", "Read a volume as a tar archive",
		downloadText)
	UploadVolume = row[UploadParams, dataset.Dataset](
		hostWorker, "upload-volume", "POST /v1/volumes/{volume}/upload", "volumes",
		"Create a volume from a tar archive",
		"The path has the spec of the new volume. The archive may have any size.")
)

// Snapshots and clones.
var (
	ListSnapshots = row[SnapshotPage, api.List[dataset.Snapshot]](
		viewer, "list-snapshots", "GET /v1/snapshots", "snapshots", "List snapshots, of one volume or of all",
		"Oldest first for one volume. Otherwise in the order of datasets.")
	GetSnapshot = row[SnapshotOfVolume, dataset.Snapshot](
		viewer, "get-snapshot", "GET /v1/snapshots/{snapshot}", "snapshots", "Show a snapshot",
		"A name identifies a snapshot only within its volume.")
	CreateSnapshot = row[VolumeChange[api.TakeSnapshot], api.Outcome](
		worker, "create-snapshot", "POST /v1/volumes/{volume}/snapshots", "snapshots", "Take a snapshot of a volume",
		"The snapshot is at least consistent after a crash. The profile says whether writers are "+
			"paused.", starts)
	DeleteSnapshot = row[DeletedSnapshot, api.Outcome](
		worker, "delete-snapshot", "DELETE /v1/snapshots/{snapshot}", "snapshots", "Delete a snapshot",
		"The snapshot is named by a prefix of its UUID or, with volume, by its name.", starts)
	RestoreSnapshot = row[RestoredSnapshot, api.Outcome](
		worker, "restore-snapshot", "POST /v1/snapshots/{snapshot}/restore", "snapshots",
		"Restore a volume to a snapshot", "The replaced content is kept as a snapshot.", starts)
	MeasureSnapshot = row[SnapshotParam, api.SnapshotSpace](
		viewer, "measure-snapshot", "GET /v1/snapshots/{snapshot}/space", "snapshots",
		"Say how much space the deletion of a snapshot frees",
		"The pool of the volume must be on the host of the server. Pools of the backends loop and zfs "+
			"know the space.")
	DiffSnapshot = row[DiffParams, api.Diff](
		viewer, "diff-snapshot", "GET /v1/snapshots/{snapshot}/diff", "snapshots",
		"Measure how much of a volume changed since a snapshot",
		"The pool of the volume must be on the host of the server.")
	CreateClone = row[Change[api.CloneVolume], api.Outcome](
		worker, "create-clone", "POST /v1/clones", "snapshots", "Create a volume as a copy that shares its blocks",
		"The source is a snapshot, or the present content of a volume.", starts)
)

// The trash.
var (
	ListTrash = row[api.Page, api.List[api.Volume]](
		viewer, "list-trash", "GET /v1/trash", "trash", "List the datasets in the trash",
		"In the order of their UUIDs.")
	RestoreTrash = row[RestoredDataset, api.Outcome](
		worker, "restore-trash", "POST /v1/trash/{dataset}/restore", "trash", "Restore a dataset from the trash",
		"The body can have a new name for the volume.", starts)
	PurgeTrash = row[PurgedDataset, api.Outcome](
		worker, "purge-trash", "DELETE /v1/trash/{dataset}", "trash", "Destroy a dataset in the trash",
		"It cannot be restored after that.", starts)
	EmptyTrash = row[DryRunParam, api.EmptiedTrash](
		worker, "empty-trash", "DELETE /v1/trash", "trash", "Destroy all datasets in the trash",
		"If one of them cannot be destroyed, the others are destroyed nevertheless.", starts)
)

// Profiles, operations and events.
var (
	ListProfiles = row[api.Page, api.List[api.ListedProfile]](
		viewer, "list-profiles", "GET /v1/profiles", "profiles", "List the profiles",
		"In the order of their names.")
	GetProfile = row[ProfileParam, dataset.Profile](
		viewer, "get-profile", "GET /v1/profiles/{profile}", "profiles", "Show a profile",
		"The profile is complete: what it inherits is included.")
	ListOperations = row[api.Page, api.List[dataset.Operation]](
		viewer, "list-operations", "GET /v1/operations", "operations", "List operations",
		"In the order of their UUIDs: operations that have not ended, and those that ended in the last "+
			"day. Scheduled snapshots are listed for an hour.")
	SubmitOperation = row[With[api.Request], api.Outcome](
		worker, "submit-operation", "POST /v1/operations", "operations", "Request a change",
		"The general form of every endpoint that changes a volume, snapshot or dataset. A request that "+
			"is repeated with the same ID returns the same operation.", starts, idempotent)
	GetOperation = row[OperationWait, dataset.Operation](
		viewer, "get-operation", "GET /v1/operations/{operation}", "operations", "Show an operation, or wait for it",
		"Operations are kept for a day after their end, and scheduled snapshots for an hour.")
	CancelOperation = row[OperationRefParam, dataset.Operation](
		worker, "cancel-operation", "POST /v1/operations/{operation}/cancel", "operations", "Cancel an operation",
		"Creates, clones, imports, snapshots, moves, backups and verifications can be cancelled until they end. "+
			"Idempotent.", starts, idempotent)
	GetVersion = row[None, api.Version](
		viewer, "get-version", "GET /v1/version", "operations", "Get the version of the server",
		"The answer names the version of the server, and the node if the server is an agent.")
	GetEvents = row[EventParams, None](
		viewer, "get-events", "GET /v1/events", "operations", "Read past events, and follow new ones",
		eventsText)
)

// Repositories for backups. Those below /v1/host run restic on the host of the server.
var (
	ListRepositories = row[api.Page, api.List[dataset.Repository]](
		viewer, "list-repositories", "GET /v1/repositories", "repositories", "List the repositories for backups",
		"In the order of their names.")
	GetRepository = row[RepositoryParam, dataset.Repository](
		viewer, "get-repository", "GET /v1/repositories/{repository}", "repositories", "Show a repository",
		"The answer has no secret: it names the file or the program that has the password.")
	AddRepository = row[With[api.NewRepository], dataset.Repository](
		admin, "add-repository", "POST /v1/repositories", "repositories", "Add a repository",
		"Control records where the repository is, and where nodes read its password. It does not open "+
			"the repository. Idempotent.", idempotent)
	RemoveRepository = row[RemovedRepository, None](
		admin, "remove-repository", "DELETE /v1/repositories/{repository}", "repositories",
		"Remove the record of a repository", "The backups in the repository stay.")
	CheckRepository = row[With[api.RepositoryCheck], api.RepositoryState](
		admin, "check-repository", "POST /v1/host/repositories/check", "repositories",
		"Open or check a repository from this host",
		"The agent runs restic. It opens the repository of new, and makes it if init is set and there "+
			"is none. Of the recorded repository with the given name, it also checks the structure, and "+
			"the given part of the data. That can take hours, and ends if the caller closes the connection "+
			"or the agent stops. restic has the repository for itself meanwhile, and refuses backups to "+
			"it. A host runs at most two such checks at a time.")
	ListBackups = row[BackupsOfVolume, api.BackupList](
		hostWorker, "list-backups", "GET /v1/host/repositories/{repository}/backups", "repositories",
		"List the backups in a repository",
		"The agent runs restic, which reads the list from the repository. Control has no list of "+
			"backups. Backups of volumes that no longer exist are listed, too. Backups that Drover has not "+
			"made are left out.")
	ListVersions = row[VersionsOfName, api.VersionList](
		hostWorker, "list-versions", "GET /v1/host/repositories/{repository}/versions", "repositories",
		"List the versions of volumes that were pushed to a repository", "The list has what any cluster pushed.")
	GetBackup = row[BackupParam, api.VolumeBackup](
		hostWorker, "get-backup", "GET /v1/host/repositories/{repository}/backups/{backup}", "repositories",
		"Show a backup with the record of its volume",
		"The agent runs restic, which reads the record from the backup.")
	RemoveBackup = row[BackupParam, None](
		admin, "remove-backup", "DELETE /v1/host/repositories/{repository}/backups/{backup}", "repositories",
		"Remove a backup from a repository",
		"The data stays in the repository until prune-repository is called. A backup that Drover has "+
			"not made is refused.")
	PruneRepository = row[RepositoryParam, None](
		admin, "prune-repository", "POST /v1/host/repositories/{repository}/prune", "repositories",
		"Remove the data that no backup in a repository needs",
		"It can take hours, and ends if the caller closes the connection or the agent stops. restic "+
			"has the repository for itself meanwhile, and refuses backups to it.")
)

// The host of the server: its pools and its store. The previews have endpoints of their own: a parameter that gets lost
// must not remove a pool.
var (
	ListPools = row[api.Page, api.List[api.Pool]](
		viewer, "list-pools", "GET /v1/pools", "pools", "List the pools",
		"In the order of nodes and names, with the last report of each. Pools that could not be made "+
			"are included.")
	CreatePool = row[With[api.NewPool], dataset.Pool](
		admin, "create-pool", "POST /v1/pools", "pools", "Create a pool on this host",
		"The server must be an agent: control has no pools.")
	AdoptPool = row[With[api.AdoptPool], api.Adopted](
		admin, "adopt-pool", "POST /v1/adoptions", "pools", "Adopt an existing pool on this host",
		"Its datasets get their names again.")
	AcceptPool = row[PoolChange[api.AcceptPool], dataset.Pool](
		admin, "accept-pool", "POST /v1/pools/{pool}/accept", "pools", "Accept a quarantined pool of this host",
		"Its disk was restored from an older state: data that was written since then is lost.")
	SetPool = row[PoolChange[api.PoolPolicy], dataset.Pool](
		admin, "set-pool", "POST /v1/pools/{pool}/policy", "pools", "Change the policy of a pool of this host",
		"The policy applies to the next volume. Existing volumes stay as they are. A policy of "+
			"drover.yaml can only be changed there. Idempotent.")
	RemovePool = row[RemovedPool, api.RemovedPool](
		admin, "remove-pool", "DELETE /v1/pools/{pool}", "pools", "Remove an empty pool of this host",
		"The files that Drover made at its path are removed. Refused while the pool contains anything, "+
			"or anything is recorded in it.")
	PreviewRemovePool = row[RemovedPool, api.RemovedPool](
		admin, "preview-remove-pool", "GET /v1/pools/{pool}/removal", "pools",
		"Preview the removal of a pool of this host",
		"Nothing is changed. The answer and the error are those that the removal would have.")
	Doctor = row[api.Page, api.List[api.Finding]](
		hostViewer, "doctor", "GET /v1/doctor", "host", "Examine this host",
		"The agent examines its host during the request.")
	ListVolumeIO = row[api.Page, api.List[api.VolumeIO]](
		hostViewer, "list-volume-io", "GET /v1/volume-io", "host",
		"List how much the mounted volumes of this host were read and written",
		"The counters are those of the block device of each volume, from /proc/diskstats. They start "+
			"at 0 when the volume is attached. Only volumes of the backends loop and lvm have a block "+
			"device. Others are left out.")
	ListHolders = row[VolumeParam, dataset.Holders](
		hostViewer, "list-holders", "GET /v1/volumes/{volume}/holders", "host", "Say who uses a volume of this host",
		"The server examines the processes and mounts of its host during the request. The home of the "+
			"volume must be that host. An answer without holders means that nobody uses the volume only if "+
			"nothing is listed as unexamined.")
	Collect = row[CollectedParam, None](
		admin, "collect", "DELETE /v1/doctor/{dataset}", "host",
		"Destroy a dataset or snapshot that the store does not know",
		"The endpoint doctor lists them. Drover destroys unknown data in no other way.")
	PreviewCollect = row[CollectedParam, api.Collected](
		admin, "preview-collect", "GET /v1/doctor/{dataset}/removal", "host",
		"Preview the removal of one thing that the store does not know",
		"Nothing is changed. It fails as the removal would.")
	BackupStore = row[None, None](
		storeExporter, "backup-store", "GET /v1/store/backup", "host", "Read a copy of the store",
		downloadText)
	RebuildStore = row[RebuildParams, api.List[api.Rebuilt]](
		admin, "rebuild-store", "POST /v1/store/rebuild", "host",
		"Rebuild the records of the datasets in this host's pools",
		"Every pool of the host must be online, unless skip_offline is set.")
	RecoverStore = row[With[api.Recover], api.Recovery](
		admin, "recover-store", "POST /v1/store/recover", "host",
		"Recover a store that was restored from an older backup",
		"The records are corrected from the reports of all agents. Without the digest of the "+
			"differences, they are only listed.")
)

// Nodes and members of the cluster.
var (
	ListNodes = row[NodePage, api.List[api.Node]](
		viewer, "list-nodes", "GET /v1/nodes", "nodes", "List the nodes",
		"With filter, only the nodes whose facts make the expression true, with those facts.")
	CordonNode = row[Report[api.Cordoned], dataset.Node](
		admin, "cordon-node", "POST /v1/nodes/{node}/cordon", "nodes", "Cordon or uncordon a node",
		"Existing volumes stay. With draining, replicas leave the node. Idempotent.", idempotent)
	LabelNode = row[Report[dataset.LabelChange], dataset.Node](
		admin, "label-node", "POST /v1/nodes/{node}/labels", "nodes", "Set and remove labels of a node",
		"A label that is set here replaces the label of drover.yaml with the same key, also at later "+
			"registrations. If it is removed, the label of drover.yaml applies again. Idempotent.", idempotent)
	FenceNode = row[Report[api.Fenced], dataset.Node](
		admin, "fence-node", "POST /v1/nodes/{node}/fence", "nodes", "Confirm that a node is fenced",
		"The caller confirms that the unreachable node no longer writes. Its volumes can then move. "+
			"Idempotent.", idempotent)
	GetFailover = row[None, api.FailoverState](
		viewer, "get-failover", "GET /v1/failover", "nodes", "Get the state of automatic failover",
		"The answer has the reason if automatic failover is halted.")
	GetHealth = row[None, api.ClusterHealth](
		viewer, "get-health", "GET /v1/health", "nodes",
		"Get the state of the store, the control replicas and the nodes",
		"The lists of nodes and replicas and the state of Consul are read during the request. The rest "+
			"of the answer is from memory.")
	MakeToken = row[With[api.NewToken], api.JoinToken](
		admin, "make-token", "POST /v1/tokens", "nodes", "Make a join token",
		"One host can join the cluster with it, once.")
	GetTrust = row[None, api.Trust](
		viewer, "get-trust", "GET /v1/trust", "nodes", "Get the trusted roots and the revoked certificates",
		"Members refuse the certificates that are listed as revoked.")
	RemoveNode = row[RemovedNode, api.RemovedNode](
		admin, "remove-node", "DELETE /v1/nodes/{node}", "nodes", "Remove a node",
		"Its certificate is revoked. Refused while the node is the home of volumes, or has data that "+
			"no other node has.", idempotent)
	PreviewRemoveNode = row[RemovedNode, api.RemovedNode](
		admin, "preview-remove-node", "GET /v1/nodes/{node}/removal", "nodes", "Preview the removal of a node",
		"Nothing is changed. The answer and the error are those that the removal would have.")
	RevokeOperator = row[OperatorParam, None](
		admin, "revoke-operator", "DELETE /v1/operators/{operator}", "nodes", "Revoke an operator's certificates",
		"All certificates that were issued to the operator so far, with any role.", idempotent)
	Join = row[With[api.Join], api.Joined](
		anonymous, "join", "POST /v1/join", "agents", "Join the cluster with a token",
		"The only endpoint that needs no certificate.", idempotent)
)

// Endpoints that agents call, each for its own node.
var (
	RegisterNode = row[Report[api.Registration], None](
		own, "register-node", "POST /v1/nodes/{node}/register", "agents", "Register a node and its pools",
		"The agent registers when it starts, and when its pools change.", idempotent)
	Renew = row[Report[api.Renewal], api.SessionState](
		ownQuiet, "renew", "POST /v1/nodes/{node}/renew", "agents", "Renew the session of the node's agent",
		"The answer says how long the agent counts as alive from now on.", idempotent)
	Plan = row[Report[api.Request], api.Plan](
		ownQuiet, "plan", "POST /v1/nodes/{node}/plan", "agents", "Decide on a request that the node will carry out",
		"Nothing is recorded.", idempotent)
	Commit = row[Report[api.Report], api.Committed](
		own, "commit", "POST /v1/nodes/{node}/commit", "agents", "Record the outcome of an operation",
		"One transaction checks again all records on which the decision depends. Idempotent.", idempotent)
	Record = row[Report[api.Report], None](
		own, "record", "POST /v1/nodes/{node}/record", "agents", "Record that an operation is running",
		"Operations that end quickly are only committed.", idempotent)
	Recall = row[Report[api.Report], dataset.Operation](
		own, "recall", "POST /v1/nodes/{node}/recall", "agents",
		"Recall the lease of a volume from its home, for a move",
		"The node that receives the volume calls it. The answer is the operation as it is now. "+
			"Idempotent.", starts, idempotent)
	Yield = row[Report[api.Yield], None](
		own, "yield", "POST /v1/nodes/{node}/yield", "agents", "Answer a recall",
		"The home reports the content that it relinquished, or the users of the volume.", idempotent)
	ReportCopy = row[Report[api.CopyReport], None](
		own, "copied", "POST /v1/nodes/{node}/copied", "agents", "Report the state of the node's copy of a dataset",
		"The report replaces the previous one.", idempotent)
	SharedMount = row[Report[api.SharedMountReport], api.IndexedDataset](
		own, "guest", "POST /v1/nodes/{node}/guest", "agents", "Begin or end a shared mount of a dataset",
		"Control records the use before the node mounts the volume, and after the node has unmounted "+
			"it.", idempotent)
	Sync = row[SyncParams, api.Sync](
		ownQuiet, "sync", "GET /v1/nodes/{node}/sync", "agents", "Wait for changes that concern the node",
		"Without rev the answer has everything about the node. Otherwise it has what changed since.", idempotent)
	Heartbeat = row[Report[api.Heartbeat], None](
		ownQuiet, "heartbeat", "POST /v1/nodes/{node}/heartbeat", "agents", "Report the state of the node",
		"The report has the state of pools and datasets, and the progress of operations. It is not "+
			"recorded.", idempotent)
	Facts = row[Report[api.FactsReport], dataset.Facts](
		ownQuiet, "facts", "POST /v1/nodes/{node}/facts", "agents", "Report the facts of the node's host",
		"Control records no small changes, and no change within a minute after the previous one.", idempotent)
	Generations = row[Report[api.Generations], api.Generations](
		ownQuiet, "generations", "POST /v1/nodes/{node}/generations", "agents",
		"Report the generations of the node's pools",
		"The answer has the highest generations that control knows. They show which pools were "+
			"restored from an older state.", idempotent)
	Rebuild = row[RebuildReport, api.List[api.Rebuilt]](
		own, "rebuild", "POST /v1/nodes/{node}/rebuild", "agents",
		"Restore the records of datasets that were found in the node's pools",
		"The answer has the result for each dataset.", idempotent)
	Certify = row[Report[api.Certification], pki.Signed](
		own, "certify", "POST /v1/nodes/{node}/certificate", "agents", "Get a new certificate",
		"An agent asks before its certificate expires.", idempotent)
	ReportHoldings = row[Report[api.Holdings], None](
		ownQuiet, "hold", "POST /v1/nodes/{node}/hold", "agents",
		"Report the datasets and copies of the node, for a recovery of the store",
		"The report is kept in memory. It replaces the previous one.", idempotent)
)
