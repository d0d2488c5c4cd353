// Package servers has the commands that run long-lived processes: drover serve, control and agent. Package main adds
// them to the command tree. Packages guards and stores use its flags and its log. Package daemon runs the processes.
// The only state of this package is profiles.yaml as it was last read, in atomic pointers (profilesFile).
package servers
