// Package servers has the commands that run long-lived processes: drover serve, control and agent.
package servers
