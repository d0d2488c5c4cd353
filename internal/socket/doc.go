// Package socket creates the unix sockets of Drover, or takes over those that systemd created. It replaces the socket
// file of a process that has ended, but never a socket on which a process answers. The daemon, the plugin and the guard
// listen with it, and the agent (agent/pool) locks pools with AcquireName. The state is on disk: a file lock is held
// while a socket is created (lock).
package socket
