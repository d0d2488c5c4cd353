// Package backends is the contract between Drover and the kinds of storage that keep datasets. It also has the registry
// of these kinds. The agent (packages agent/…, mainly agent/pool) opens pools and calls their methods. Packages
// backends/verify and backendtest test a pool by the same contract, and package trialdir opens the pools of a trial to
// remove their datasets. In the command, package settings makes the Registry and reads the limits of a BoundedKind,
// package daemon passes the Registry to the agent, and package verification passes a Kind to a trial.
// The package holds no state about datasets. A Registry does not change after NewRegistry, and Attachments has a mutex.
//
// Where to change what: the methods that each pool has are in pool.go, those that only some pools have in optional.go,
// and those of copies in copy.go. What a backend can do before a pool is open is in kind.go. When a pool counts as full
// is in room.go.
//
// # Terms
//
// A backend is a kind of storage. Kind describes it and opens its pools. A Pool
// is one configured place where a backend keeps datasets. A dataset has one
// head, the bytes that containers write, and snapshots, which never change.
// Every dataset and snapshot has its record beside it (the JSON of
// dataset.Dataset and dataset.Snapshot), so that a lost store can be rebuilt
// from its pools.
//
// # The life of a dataset
//
//	Create, Clone            make it as "incoming": complete and durable, but
//	                         not yet acknowledged to anyone
//	Commit                   makes it ready, as List reports it; called after
//	                         the store has recorded it
//	Attach … mount … unmount the agent mounts what Attach describes; a backend
//	                         never mounts a dataset for use
//	Delete                   hides it at once, then removes its bytes
//
// A pool that is not the home of a dataset can keep a copy of it, without a
// head. See Copier.
//
// A crash in Create, Clone or Delete leaves a dataset incoming or deleting, never ready and damaged. Reap removes the
// incoming datasets that its caller selects, and finishes deletions. Nothing else removes data without a request. A
// file or volume that the backend does not understand is listed as foreign and never touched.
//
// # What a pool can do
//
// Three mechanisms describe the abilities of a pool. Each has one purpose:
//
//	dataset.Capabilities  what users and placement may rely on. It is sent to
//	                      control and shown by the API. Two pools of one backend
//	                      can have different capabilities. A method can exist and
//	                      still fail with ErrUnsupported because the pool lacks
//	                      the capability.
//	optional interfaces   which additional methods the agent may call on this open
//	                      pool. A backend whose pools differ opens them as
//	                      different Go types. Interfaces never leave the process.
//	other fields of Info  facts about one open pool that the agent needs and
//	                      that promise nothing to users: its path, its share,
//	                      how old Used can be, whether a snapshot freezes its head.
//
// Code that decides where a dataset can be placed reads capabilities, because it
// may run on another node. Code that is about to call an optional method asserts
// the interface. Some capabilities have no method (InstantSnapshot), and some
// interfaces have no capability (Trimmer). Where a capability and an interface
// mean the same, they must agree: a dir pool with project quotas has EnforcesSize
// and is a Resizer, and one without them is neither. backendtest checks this, for
// example that Delta is set exactly for a Copier.
//
// # Idempotence and concurrency
//
// Every method can be repeated with the same arguments, after it succeeded or after a crash in the middle, and ends in
// the same state. The comment of each method gives the details. Calls for different datasets may run concurrently. The
// caller holds a lock for each dataset, so that calls that change one dataset do not overlap. For example, a Snapshot
// of a dataset excludes a Delete of that dataset.
//
// # Errors
//
//	dataset.ErrOffline      the pool is absent, or another pool is in its place
//	dataset.ErrNotFound     the pool has no such dataset or snapshot
//	dataset.ErrExists       something else is in the way; it was not touched
//	dataset.ErrNoSpace      the pool or its host disk is too full
//	dataset.ErrUnsupported  this pool cannot do it, whatever its state
//	dataset.ErrCorrupt      the data is damaged or foreign
//	dataset.ErrConflict     the call does not fit the state of the dataset or the
//	                        pool; for example, it needs a head and the pool has
//	                        only a copy
//	dataset.ErrInvalid      the arguments are wrong or contradict each other
//	dataset.ErrForbidden    the host lacks the key of an encrypted dataset
//	dataset.ErrInUse        the dataset is attached, or mounted in any mount
//	                        namespace of this host, where that prevents the call
//
// If the mount namespaces cannot be examined, the call fails: the backend does not assume that the dataset is unused.
package backends
