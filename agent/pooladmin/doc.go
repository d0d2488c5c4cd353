// Package pooladmin makes, adopts, accepts, trims and removes the pools of this node.
package pooladmin
