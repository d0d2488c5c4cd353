// Package transfer copies datasets from one node's agent to another's. It has the server and the client of the peer
// API, on top of the http.Handler and the http.RoundTripper that the agent provides (mutual TLS, in a cluster). It
// moves bytes and describes them. It knows no leases, no operations and no store, and not whether a request is for a
// move or for a replica. It does not decide which node is the home of a dataset.
//
// The target of a move (move.Mover) and the refresh of a replica (replication.Replicas) use Client. Package agent
// serves Server, whose Source is move.TransferSource. replication.Retention asks Server which snapshots are being sent,
// and move.TransferSource asks it what was sent last. Server has state in memory, under a mutex: the snapshots that are
// being sent and the last one that was sent of each dataset. Limiter has the rate that all transfers share, under a
// mutex too. Client has no state. The caller of Pull holds the dataset's lock at the target, and Source takes it at the
// home.
//
// Where to change what: pull.go has the steps of a target: its checks before the first byte, and what it does after an
// interruption or wrong data. files.go has these steps for trees of files. Which snapshots are
// sent, and based on which, is in plan.go. The frames and their version are in frame.go, and when they are compressed
// is in compression.go. How transfers share the rate is in limit.go.
// Server does not know if a stream is for a move, so a priority needs a parameter of the peer API.
//
// # What a target does
//
// It pulls, into a copy (backends.Copier) in its own pool:
//
//	snapshot, err := client.RequestSnapshot(ctx, peer, ds, have)  the home takes a transfer snapshot now
//	plan, err := client.Plan(ctx, peer, …)                        lists the missing snapshots, with their sizes
//	brought, err := client.Pull(ctx, Pull{…})                     transfers them, resumes if interrupted, verifies
//
// It repeats this as often as useful, because each Pull transfers only what has changed. When the home has relinquished
// the dataset, Pull{Want, Manifest} checks the last snapshot against the manifest that the home has computed with Sum.
// Then Promote and Commit of the pool make the dataset a home. Until then Pull can do no harm, because it only changes
// a copy.
//
// Pools without copies receive the tree of files (PullFiles) instead of snapshots. After an interruption, PullFiles
// starts again from the beginning.
//
// # The peer API
//
//	GET  /v1/peer/datasets/{id}?have=&want=&begun=&bases=&shared=
//	                                                         all snapshots, oldest first, and a Plan
//	POST /v1/peer/datasets/{id}/freshen?have=                take a transfer snapshot; its record
//	GET  /v1/peer/datasets/{id}/snapshots/{snapshot}/stream?base=&from=
//	GET  /v1/peer/datasets/{id}/snapshots/{snapshot}/files   the nil UUID: the dataset itself, not in use
//
// have lists the snapshots of the copy. The other parameters add transfer snapshots to the plan: want adds one
// snapshot, begun the one that was transferred in part, bases those that other copies are based on, and shared those
// that all replicas keep.
//
// The last two answer in frames (frame.go). Frames bound what each side must buffer, distinguish an interrupted stream
// from one that ended, and are compressed with zstd while the link is slower than the processor. The stream inside is
// the pool's, with a checksum over all of it. Errors are {code, message}, as dataset.Problem.
//
// # What can go wrong
//
// After an interruption, an unreachable peer, or a peer that sends nothing for Idle, Pull waits a little and resumes
// from what has arrived, as long as it makes progress. A peer that violates the format is disconnected, and logged once
// for each Pull. The pool verifies the checksum at the end of the stream, which also covers what arrived before an
// interruption. If it is wrong, the pool discards all of it, and Pull starts again, at most maxAttempts times. Whatever
// happens, the copy has complete, verified snapshots and at most a part of the next one.
package transfer
