// Package move moves datasets between nodes: Mover executes a move to this node, Sender provides the data
// that other nodes copy from here, and Bringer moves a volume here because a container mounts it.
package move
