// Package controlsync keeps this node and control in agreement. Sync has its components. The package joins the cluster
// and keeps the certificate (keep.go), registers the node, its pools and its facts (Registration, Facts),
// applies what control decides (Follower), and reports what is on this host (Reporter, StatusReader). Holdings reports
// the content of the pools when control's store was lost or is older than the pools. OfflineReader and LiveReader
// answer requests while control is unreachable.
//
// Follower.applying makes sure that only one answer of control is applied at a time. The package owns the keys
// recovery, answered and usage/ of the agent's database, and the identity of the node. What a record of control causes
// here is in follower.go, when a store counts as restored in comparestore.go and known.go, and what a heartbeat
// contains in reporter.go and status.go.
package controlsync
