// Package control is the control service: it decides, and never acts on storage.
//
// A request is planned from the records in the store, the valid profiles and the last reports of agents. The plan
// changes nothing. The agent of the home carries the plan out. Its report is committed by one transaction, which checks
// every key that the decision depends on. Control never connects to a node: agents send requests and reports, and wait
// for changes. The command's package daemon makes a Service. Package api/server serves it; on a single host, the agent
// calls it directly (server.Audited).
//
// Service implements the API. It decides itself on the requests for volumes that stay where they are, and routes the
// others to the package that decides:
//
//	relocation    moves and failovers
//	deletion      deletes, the trash, purges, superseded copies, removal of nodes
//	membership    joining, certificates, registration, sessions, unreachable nodes, generations of pools
//	recovery      a store that was restored from a backup, or lost
//	placement     the choice of a pool, and which copies nodes keep
//	housekeeping  background work, by one service of a cluster
//	view          what users see, and what agents must know
//	health        the state of the cluster: nodes, control replicas, the store
//	repositories  the places for backups, and exports of the records in them
//	reports       the last reports of agents, and the check of profiles that come from nodes
//	record        keys, types and transactions; wakes the callers that wait for changes
//
// Package control itself decides who may request what (authorization.go). It records operations: plan.go has the steps
// that the plans of all kinds share, operations.go the requests, and commit.go the results. It also records the recalls
// of leases (lease.go) and shared mounts (sharedmounts.go). An endpoint that needs several of these packages belongs
// here.
//
// kinds.go has a row for each kind of operation. A plan function decides on a request. The commit function of the kind
// records the success that the agent of the home reports, or, for a change that needs no agent, a settle function. Each
// reads and writes one record.Tx, whose commit checks every record that Get has read. Some also read the valid profiles
// and the last reports of agents, which are in memory. Creates, clones and imports are in create.go: for a stricter
// rule for new names, begin there. An option of a volume begins in dataset/options.go (its value, help and Apply) and
// planCreate; backup.go refuses those that a verification cannot use, and reports.Profiles the mount options that it
// does not know. matches.go compares a request with what exists. A change of an existing volume is in update.go (of its
// failover in setfailover.go), of its names in rename.go, of its key in rekey.go, snapshots are in snapshot.go, and
// backups, pushes and verifications in backup.go. The filesystem and the encryption of a dataset never change: another
// profile is refused if it requires others, with the commands that copy the volume.
//
// All lasting state is in the store, and its transactions protect it. Service keeps no state in memory. Some of its
// components do: see their package comments.
//
// Keys of the store (package record has their types):
//
//	names/<name>                  the claim of a volume's name or alias: the dataset's UUID
//	datasets/<uuid>               dataset.Dataset
//	snapshots/<dataset>/<uuid>    dataset.Snapshot
//	snapnames/<dataset>/<name>    the claim of a snapshot name
//	leases/<uuid>                 dataset.Lease
//	copies/<node>/<dataset>       dataset.Copy: the copy on a node that is not the home
//	nodes/<id>, pools/<id>        dataset.Node, dataset.Pool
//	generations/<pool>            the highest generation of a pool that was written to the store; services may
//	                              have received higher ones since, and keep them in memory
//	facts/<id>                    dataset.Facts of a node, as of the last significant change
//	operations/<id>               dataset.Operation
//	guests/<node>/<dataset>       index: datasets of access many with a shared mount on the node
//	home/<node>/<dataset>         index: datasets whose home a node is
//	work/<node>/<operation>       index: operations of a node that have not ended
//	trash/<dataset>               index: datasets in the trash or pending deletion, and when they are purged
//	by-uuid/<uuid>                index: the dataset or snapshot with a UUID
//	repositories/<name>           dataset.Repository: a place for backups
//	backups/<dataset>             what became of the scheduled backups of a dataset: see record.Backups
//	verifications/<dataset>       what became of the verifications of its backups: see record.Verifications
//	damaged-backups/<dataset>     its backups that were found damaged: see record.DamagedBackups
//	parents/<dataset>             the backups that can be restic's parent of the next one: see record.Parents
//	exports/<repository>          what became of the exports of the records: see record.Export
//	tokens/<sha256>               a join token, by its hash
//	away/<node>                   since when a node is unreachable
//	fenced/<node>                 an operator confirmed that the node is fenced; deleted when its agent
//	                              registers again
//	left/<node>                   the agent of the node was stopped properly, so the catalog does not list it
//	returned/<node>               the last recovery of the store after which the node has registered
//	failover/halted               too many nodes were lost at once: automatic failover is suspended
//	revoked/<node>                all certificates of a node are revoked
//	revoked/operator/<name>       the earlier certificates of an operator are revoked
//	cluster/id                    the identity of this store
//	cluster/format                the format of the records: see record.Format
//	cluster/halted                why changes are suspended: see record.Halt
//	cluster/recovery              the last recovery, in which agents reported their datasets
//	cluster/loading               an import of the store has not ended: see package dump
//	house/ran                     how long services have run, in total; the count stops while no record depends on
//	                              it: see record.RunMark
//	rev/<replica>/<lane>          the last changes by a service, for the other services: see record.LaneValue
//	rev/dropped                   the sum of the counts of removed lanes: see record.StoreClockOf
//	live/nodes/<node>             record.Alive: the agent of the node is alive; deleted with its session
//	live/control/<replica>        membership.Replica: the service is alive; deleted with its session
//	live/house                    which service does the background work; deleted with its session
//
// Any number of services can work on one store. A service keeps in memory only state that it can read again from the
// store, or that agents report again to every service, such as heartbeats, generations of pools and the reports for a
// recovery. Each service learns of the changes by the other services, so an agent can follow any of them.
package control
