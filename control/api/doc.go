// Package api has the parts of the HTTP API of Drover, version 1, that servers and clients share:
//
//   - the types of requests and responses,
//   - the interfaces: control implements Service and Members, the agent of a host implements Local, and a store in a
//     file (control/store/bolt) implements Backup; *client.Client implements all of them,
//   - the caller of a request (Principal), and one line of the audit log (Change).
//
// Control, the agents and the command line use the package. It keeps no state. To add an endpoint, add its types and
// its method here, a row in package route, its handler and a row of the access table in package server, a text in
// package openapi (endpoints.go) unless the handler describes it, and its method in package client.
//
// Package route is the table of endpoints, package server has the handlers, package client the typed client, package
// wire the representation in HTTP, and package openapi the OpenAPI document.
//
// An error is sent as RFC 9457 problem details with the stable code of its dataset.Kind. The client returns an error of
// the same kind. If the server cannot be reached, the client returns dataset.ErrUnavailable.
package api
