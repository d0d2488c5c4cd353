// Package pools has the commands of drover pool, and the words for capabilities and states of pools, which packages
// nodes, stores and verification use too. Package main adds the commands to the command tree. The commands call the
// API, and keep no state.
package pools
