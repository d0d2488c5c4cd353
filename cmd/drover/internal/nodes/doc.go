// Package nodes has the commands of drover node. Package main adds them to the command tree. The commands call the API,
// and keep no state. drover node token also writes the token to the file of --out. drover node drain requests the move
// of each volume of the node (drain.go). Control moves only the replicas of a drained node.
package nodes
