// Package pools has the commands of drover pool. Packages nodes and verification use its words for the states and
// capabilities of pools, and package stores shows rebuilt datasets with RebuiltTable. Package main adds the commands to
// the command tree. The commands call the API, and keep no state.
package pools
