// Package control is the control service: it decides, and never acts on storage.
//
// A request is planned from the state in the store, as a pure decision over the records that it reads. The agent of the
// home carries the plan out. Its report is committed by one transaction, which checks every key that the
// decision depends on. Control never connects to a node: agents ask, report, and wait for changes.
//
// Service implements the API. Packages below it do the parts that need nothing of it: record (keys and transactions),
// ledger (commits and publishes decisions), reports (what agents reported last), notify (who waits for changes),
// placement (the choice of a pool), membership (nodes, replicas, certificates) and recovery (a store that was restored
// from a backup).
//
// Keys of the store (package record has their types):
//
//	names/<name>                  the claim of a volume name: the dataset's UUID
//	datasets/<uuid>               dataset.Dataset
//	snapshots/<dataset>/<uuid>    dataset.Snapshot
//	snapnames/<dataset>/<name>    the claim of a snapshot name
//	leases/<uuid>                 dataset.Lease
//	copies/<node>/<dataset>       dataset.Copy: the copy on a node that is not the home
//	nodes/<id>, pools/<id>        dataset.Node, dataset.Pool
//	generations/<pool>            the highest generation that a pool ever had, apart from
//	                              what every service has heard since and keeps in memory
//	facts/<id>                    dataset.Facts of a node, as of the last significant change
//	operations/<id>               dataset.Operation
//	guests/<node>/<dataset>       index: datasets of access many with the node among their guests
//	home/<node>/<dataset>         index: datasets whose home a node is
//	work/<node>/<operation>       index: operations of a node that have not ended
//	trash/<dataset>               index: datasets in the trash, and when they are purged
//	by-uuid/<uuid>                index: the dataset or snapshot with a UUID
//	tokens/<sha256>               a join token, by its hash
//	away/<node>                   since when a node is unreachable
//	fenced/<node>                 an operator confirmed that the node is fenced; until it is back
//	left/<node>                   its agent was stopped properly, and is not in the catalog
//	failover/halted               too many nodes were lost at once: automatic failover is suspended
//	revoked/<node>                all certificates of a node are revoked
//	revoked/operator/<name>       the earlier certificates of an operator are revoked
//	cluster/id                    the identity of this store
//	cluster/format                the format of the records: see record.Format; absent: 1
//	cluster/halted                why changes are suspended: see record.Halt
//	cluster/recovery              the last recovery, in which agents reported what they have
//	house/ran                     for how long services have run while something waited for that time
//	rev/<replica>/<lane>          the last changes of a service, for the others: see notify.Notices
//	rev/dropped                   the sum of the counts of removed lanes: see ledger.ClockIn
//
// Any number of services can work on one store. None keeps anything that another cannot read again, apart from the last
// heartbeats, which agents send to all. Each service learns the changes of the others, so that an agent can
// follow any of them.
package control
