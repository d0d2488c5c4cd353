// Package nodes has the commands for the parts of a cluster: drover node, drover ca, drover guard and drover store.
// drover node drain requests the move of each volume of the node (drain.go); control moves only the replicas. Some
// commands of drover store and drover ca work on files of this host, without a server. The package keeps no state.
package nodes
