// Package endpoint is the table of the endpoints of the API: a row has the method, the path, the types of the request
// and the answer, who may use the endpoint, and its text in the OpenAPI document. Package server binds a handler to
// each row, and package client sends requests by it. It keeps no state: All is complete before main begins.
//
// A new endpoint is a row in table.go and a handler in package server.
package endpoint

import (
	"strings"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/internal/pki"
)

// Endpoint is what a row says without the types of the request and the answer.
type Endpoint struct {
	ID      string // operation ID in the OpenAPI document and in the audit log
	Method  string
	Path    string // with {parameters}
	Tag     string // the group in which the OpenAPI document lists the endpoint
	Summary string // what the caller may or may not do, as a phrase
	Text    string
	Access  Access
	// Starts: the work can continue as an operation. Then the status is 202, and Location names the operation.
	Starts bool
	// Idempotent: a client may send the request a second time, also to another server.
	Idempotent bool
}

// Of is a row of the table. In has a field for each parameter, and a field Body if the request has a body. Out is the
// body of the answer.
type Of[In, Out any] struct{ Endpoint }

// None is a request without parameters, or an answer without a body.
type None struct{}

// Access says who may use an endpoint. Callers on this host may use all of them. This is only the first check: control
// also compares the content of a request with its caller.
type Access struct {
	Role      pki.Role // operators with this role or a higher one; empty: no operator
	Nodes     Nodes    // which nodes
	Anonymous bool     // also callers without a certificate
	Quiet     bool     // the request decides nothing new, so the audit log has no line for it
	Exports   bool     // reads a whole volume or the store, so the audit log has a line for it
}

// Nodes says which nodes may use an endpoint.
type Nodes int

// The values of Nodes.
const (
	NoNode  Nodes = iota
	OwnNode       // only the node whose UUID is in the path
	AnyNode
)

var (
	viewer        = Access{Role: pki.Viewer, Nodes: AnyNode}
	hostViewer    = Access{Role: pki.Viewer}
	worker        = Access{Role: pki.Worker, Nodes: AnyNode}
	hostWorker    = Access{Role: pki.Worker}
	exporter      = Access{Role: pki.Worker, Exports: true}
	admin         = Access{Role: pki.Admin}
	storeExporter = Access{Role: pki.Admin, Exports: true}
	own           = Access{Nodes: OwnNode}
	ownQuiet      = Access{Nodes: OwnNode, Quiet: true}
	anonymous     = Access{Anonymous: true}
)

// Endpoints that the OpenAPI document does not list, and that have no typed answer.
var (
	GetOpenAPI = Endpoint{ID: "get-openapi", Method: "GET", Summary: "Read what the API is", Access: viewer}
	GetMetrics = Endpoint{ID: "get-metrics", Method: "GET", Summary: "Read the metrics", Access: hostViewer}
)

// All has the rows of the table in their order.
var All []Endpoint

type property func(*Endpoint)

func starts(e *Endpoint)     { e.Starts = true }
func idempotent(e *Endpoint) { e.Idempotent = true }

// row adds a row to the table.
func row[In, Out any](access Access, id, route, tag, summary, text string, properties ...property) Of[In, Out] {
	method, path, _ := strings.Cut(route, " ")
	e := Endpoint{ID: id, Method: method, Path: path, Tag: tag, Summary: summary, Text: text, Access: access}
	for _, set := range properties {
		set(&e)
	}
	All = append(All, e)
	return Of[In, Out]{e}
}

// downloadText describes an endpoint whose answer is a stream of bytes.
const downloadText = "Ends with trailers if the request asks for them (TE: trailers): " + wire.CodeTrailer + " is " +
	wire.CodeOK + ", or the code of the problem that " + wire.DetailTrailer + " has, percent-encoded. " +
	wire.LeftOutTrailer + " has the number of sockets that a complete archive lacks, and the first of their paths. " +
	"Without trailers, the connection breaks if the archive is incomplete."

const eventsText = "Server-sent events. Each carries its ID and, as data, an Event; an event of type " +
	wire.ProblemEvent + " carries a Problem and ends a stream that failed."
