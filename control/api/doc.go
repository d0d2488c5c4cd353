// Package api has the parts of the HTTP API of Drover, version 1, that servers and clients share:
//
//   - the types of requests and responses,
//   - the interfaces: control implements Service and Members, the agent of a host implements Local, and a store in a
//     file (control/store/bolt) implements Backup; *client.Client implements all of them,
//   - the caller of a request (Principal), and one line of the audit log (Change).
//
// Control, the agents and the command line use the package. It keeps no state. A new endpoint is a row of the table in
// package endpoint and a handler in package server. If a program uses it, it also gets a method in an interface here
// and in package client.
//
// Package endpoint is the table of endpoints, package server has the handlers, package client the typed client, package
// wire the representation in HTTP, and package openapi the OpenAPI document.
//
// An error is sent as RFC 9457 problem details with the stable code of its dataset.Kind. The client returns an error of
// the same kind. If the server cannot be reached, the client returns dataset.ErrUnavailable.
package api
