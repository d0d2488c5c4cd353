// Package plugin translates between Docker's volume plugin protocol and the
// agent of this host, and does nothing else.
package plugin
