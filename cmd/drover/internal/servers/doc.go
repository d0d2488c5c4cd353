// Package servers has the commands that run long-lived processes: drover serve, control and agent. Package main adds
// them to the command tree. Packages guards and stores use its flags and its log. The package keeps no state: package
// daemon runs the processes.
package servers
