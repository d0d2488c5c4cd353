// Package plugin is the server of Docker's volume plugin protocol. It translates each call of an engine into a call of
// Agent, and the result into an answer. The daemon of the agent creates a Server for its plugin socket. Package agent
// implements Agent. Package agent/operation makes a Volume for an answer. Packages agent/operation, agent/mounting and
// agent/move use Tool and Caller, which identify the program and the process that sent a request. A Server stores
// nothing about volumes. It counts the running calls, so that Shutdown can wait for them. A mutex protects the count.
//
// The reaction of the engine to an answer determines which answers are possible:
//
//   - An error is answered with status 500 and its text in the field Err, as docker/go-plugins-helpers does. Podman
//     looks only at the status. With status 200, it takes a refused Create for a new volume, and after a refused Mount
//     it runs the container on a folder of Podman. The Docker engine accepts either status, and retries the call in
//     neither case. For any status other than 200 it puts the name of the call before the text (pkg/plugins/client.go
//     and errors.go of moby). It treats a Get with status 500 like a Get with an Err. A request that cannot be
//     understood is answered with the matching 4xx status and an Err.
//   - A request without a body is the engine's retry of a call whose connection broke: the first attempt consumed the
//     body. The request names no volume, so it is refused and nothing is done (moby#35459, #39331).
//   - Every Err of Get means "no such volume": the engine drops its record of the volume and of the containers that
//     use it. It keeps the record only after an error of the transport. So if Get fails and the volume may exist, the
//     plugin breaks the connection: see mayReachEngine and hangUp. An engine that starts also forgets each volume for
//     which Get answers an Err (volume/service/restore.go of moby).
//   - A Mount that succeeds without a path gives the container a folder of the runtime. A null among the volumes of a
//     List crashes the engine. A time that is not RFC 3339, or a Status that is not an object, makes a volume unknown.
//
// Where to change what: the calls of the protocol are in calls.go, what is sent to the engine in wire.go and list.go,
// and the time limits in server.go. The fields of Status are in agent/operation/viewer.go. How the process and the
// program behind a request are identified is in caller.go. How a connection is broken without a retry by the engine is
// in heldconn.go.
package plugin
