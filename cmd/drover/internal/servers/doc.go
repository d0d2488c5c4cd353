// Package servers has the commands that run long-lived processes: drover serve, control and agent. drover config checks
// the files that they read. Package main adds all to the command tree. Package stores uses its Flags, and package
// guards NotifyReady. Package daemon runs the processes. The only state of this package is in profilesFile: the content
// of profiles.yaml when it was last loaded, and the present problem of the file.
package servers
