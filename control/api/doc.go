// Package api has what both sides of the HTTP API of Drover, version 1, share: the types of requests and answers, the
// interfaces that control (Service, Backup, Members) and the agent of a host (Local) implement, the principal of a
// request, and the line of the audit log.
//
// Package route is the table of endpoints, package server has the handlers, package client the typed client, package
// wire the representation in HTTP, and package openapi the OpenAPI document.
//
// An error is sent as RFC 9457 problem details with the stable code of its dataset.Kind. The client returns an error of
// the same kind. If the server cannot be reached, the client returns dataset.ErrUnavailable.
package api
