// Package socket creates the unix sockets of Drover, or takes over those that systemd created. It replaces the socket
// file of a process that has ended, but never a socket on which a process answers. The daemon and the guard listen with
// it. The guard, the plugin and the command drover support-bundle (cmd/drover/internal/status) identify the process at
// the other end with Peer, and the agent (agent/pool) locks pools with AcquireName. The state is on disk: a file lock
// is held while a socket is created (lock). How a socket file is created and replaced is in listen.go, the names are in
// name.go, and the sockets of systemd in systemd.go. A [Limiter] (connlimit.go) limits the connections of peers that
// have not authenticated, called strangers there, on the sockets of the network.
package socket
