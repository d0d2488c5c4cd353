// Package plugin translates between Docker's volume plugin protocol and the
// agent of this host, and does nothing else.
//
// What the engine does with an answer decides what it may be:
//
//   - An error is an Err with status 500, as docker/go-plugins-helpers answers it.
//     Podman looks at the status only: with 200 it takes a refused Create for a
//     new volume, and runs a container on its own folder when Mount was refused.
//     The Docker engine takes either, and puts the name of the call before the
//     text of any other status than 200 (pkg/plugins/client.go and errors.go of
//     moby). It retries neither, and a Get with status 500 is to it what a Get
//     with an Err is. A request that cannot be understood is answered with the
//     4xx status that says why, and an Err as well.
//   - A request without a body is the engine's own retry of a call whose
//     connection broke; the body was spent on the first attempt. It names no
//     volume, so nothing is done and nothing is believed (moby#35459, #39331).
//   - Every Err of Get means "no such volume": the engine drops its record of
//     the volume, and which containers use it. Only an error of the transport
//     keeps the record. See server.unknown for what is done about it.
//   - A Mount that succeeds without a path gives the container the runtime's own
//     folder; a null among the volumes of a List ends the engine; a time that is
//     not RFC 3339, or a Status that is no object, makes a volume unknown.
package plugin
