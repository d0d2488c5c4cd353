// Package control is the control service: it decides, and never acts on
// storage. A request is planned from the state in the store (a pure decision
// over what it reads), the home's agent carries the plan out, and its report is
// committed by one transaction that checks every key which the decision rests
// on. Control never dials a node: agents ask, report, and wait for what changed.
//
// Keys:
//
//	names/<name>                  the unique claim on a name: the dataset's UUID
//	datasets/<uuid>               dataset.Dataset
//	snapshots/<dataset>/<uuid>    dataset.Snapshot
//	snapnames/<dataset>/<name>    the unique claim on a snapshot's name
//	leases/<uuid>                 dataset.Lease
//	copies/<node>/<dataset>       dataset.Copy: what a node that is not the home keeps
//	nodes/<id>, pools/<id>        dataset.Node, dataset.Pool
//	generations/<pool>            the highest generation that a pool was ever of, but for
//	                              what every service heard since and has in memory
//	facts/<id>                    dataset.Facts of a node, as of the last change that counts
//	operations/<id>               dataset.Operation
//	guests/<node>/<dataset>       index: datasets of access many that a node stays with: Dataset.Guests
//	home/<node>/<dataset>         index: datasets whose home a node is
//	work/<node>/<operation>       index: operations of a node that are not final
//	trash/<dataset>               index: datasets in the trash, with their end
//	by-uuid/<uuid>                index: what a UUID, or a prefix of it, names
//	tokens/<sha256>               a join token, by what it is hashed to
//	away/<node>                   since when nothing is heard of a node
//	fenced/<node>                 a person's word that it writes no more, until it is back
//	left/<node>                   its agent stopped in order, and is to be found nowhere
//	failover/halted               too many nodes vanished for any to be taken for lost
//	revoked/<node>                every certificate of a node is worth nothing
//	revoked/operator/<name>       those of an operator that were made before
//	cluster/id                    the identity of this store
//	cluster/halted                why nothing is decided: see halt
//	cluster/recovery              the last time that agents were asked what they hold
//	house/ran                     for how long services have run on it while anything waited for that
//	rev/<replica>/<lane>          what a service changed last, for the others: see tidings
//	rev/dropped                   how often lanes were written that are no more: see clockIn
//
// Any number of services can work on one store: none keeps anything that
// another cannot read again, apart from what agents' heartbeats said last, and
// those go to all. Each hears of what the others change, so that an agent may
// follow any.
package control
