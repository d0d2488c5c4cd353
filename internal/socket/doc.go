// Package socket makes the unix sockets that Drover answers on, or takes those
// that systemd hands over. A socket file of a dead process is replaced; one on which a process answers is not.
package socket
