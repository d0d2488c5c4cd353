// Package nodes has the commands of drover node.
package nodes
