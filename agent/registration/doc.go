// Package registration makes this node known to control: who it is, which pools and facts it has, and which store of
// control it works with.
package registration
