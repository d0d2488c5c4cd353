// Package servers has the commands that run long-lived processes: drover serve, control and agent. drover config checks
// the files that they read. Package main adds all to the command tree. Package stores uses its Flags, and package
// guards NotifyReady. Package daemon runs the processes. The only state of this package is profiles.yaml as it was last
// loaded, and what is wrong with the file since (profilesFile).
package servers
