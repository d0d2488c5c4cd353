// Package socket creates the unix sockets of Drover, or takes over those that systemd created. It replaces the socket
// file of a process that has ended, and never one on which a process answers.
package socket
