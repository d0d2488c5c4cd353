// Package transfer brings datasets from one node's agent to another's: the server and the
// client of the peer API, over whatever http.Handler and http.RoundTripper the agent puts
// below (mutual TLS, in a cluster). It moves bytes and says what they were; it knows no
// leases, no operations and no store, and decides nothing about where a dataset belongs.
//
// # What a target does
//
// It pulls, into a copy (backends.Copier) on its own pool:
//
//	snapshot, err := client.Freshen(ctx, peer, dataset, have)   the home takes a transfer snapshot now
//	plan, err := client.Plan(ctx, peer, …)                what is lacking, and how many bytes that takes
//	brought, err := client.Pull(ctx, Pull{…})             brings it, resumes after cuts, verifies
//
// and again, as often as that is worth while, since each Pull only brings what has changed.
// When the home has given the dataset up, its last snapshot and manifest (Sum, at the home)
// are what Pull{Want, Manifest} is held to. Then Promote and Commit of the pool make it the
// home. Until then nothing that Pull does can hurt: a copy is no home.
//
// Pools of another kind get the tree of the files (PullFiles) in place of snapshots: it
// begins anew after a cut, and brings no history.
//
// # The peer API
//
//	GET  /v1/peer/datasets/{id}?have=&want=                  all snapshots, oldest first, and a Plan
//	POST /v1/peer/datasets/{id}/freshen                      take a transfer snapshot; its record
//	GET  /v1/peer/datasets/{id}/snapshots/{snapshot}/stream?base=&from=
//	GET  /v1/peer/datasets/{id}/snapshots/{snapshot}/files   the nil UUID: as it lies, at rest
//
// The last two answer in frames (frame.go), which bound what each side has to hold, tell a
// stream that was cut from one that ended, and are packed by zstd while the link is slower
// than the processor. The stream inside is the pool's, with a checksum over all of it.
// Errors are {code, message}, as dataset.Problem.
//
// # What goes wrong
//
// A cut, a peer that is away, one that sends nothing for Idle, bytes that were damaged on
// their way: Pull waits a little and goes on from what has come, as long as that leads on.
// A peer that does not keep to the form is cut off, and logged once for each Pull. Whatever
// happens, the copy has whole, verified snapshots and at most one part of a next one.
package transfer
