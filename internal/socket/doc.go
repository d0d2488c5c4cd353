// Package socket makes the unix sockets that Drover answers on, or takes those
// that systemd hands over. A socket file that a dead process left is replaced;
// one that somebody answers on is not.
package socket
