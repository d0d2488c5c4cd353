// Package openapi makes the OpenAPI document of the API: its general parts, the schemas of types that cannot describe
// themselves, and the descriptions of properties. Package control/api/server calls New, adds the endpoints, and calls
// Complete. The package has no state. The text of an endpoint is in endpoints.go, that of a property is the comment
// of its Go field, and a new type with a fixed set of values gets a schema in schema.go.
//
// descriptions.json has the comments of the Go fields, because a compiled program does not contain comments. The tests
// of this package write it and docs/openapi.yaml:
//
//	go generate ./control/api/openapi
package openapi

import (
	"encoding/json"
	"sync"

	"github.com/danielgtaylor/huma/v2"
)

//go:generate go test -run TestGeneratedFilesAreTheSource|TestOpenAPIIsKept -update .

// clientCertificate is the name of the security scheme of connections over TLS.
const clientCertificate = "clientCertificate"

// New returns a document without endpoints. The handlers add them.
func New() *huma.OpenAPI {
	return &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "Drover", Version: "1",
			Description: "Named, portable data for containers. Served on a unix socket; errors are problem " +
				"details (RFC 9457) " +
				"with a stable code; lists are paged. Whatever changes something becomes an operation and " +
				"can be asked again " +
				"with the same ID.",
			Contact: &huma.Contact{Name: "Drover", URL: "https://github.com/droverhq/drover"},
			License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
		},
		Servers: []*huma.Server{
			{URL: "http://drover", Description: "The unix socket of a host. The host name is ignored."},
			{
				URL: "https://{control}", Description: "Control of a cluster, over TLS.",
				Variables: map[string]*huma.ServerVariable{
					"control": {Default: "control", Description: "host and port of a node that runs control"},
				},
			},
		},
		Components: &huma.Components{
			Schemas:   registry(),
			Responses: sharedResponses(),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				clientCertificate: {
					Type: "mutualTLS",
					Description: "A certificate of the cluster: of a node, for the endpoints of agents, or " +
						"of an operator. " +
						"Over the unix socket no certificate is needed: the permissions of the socket " +
						"decide who may connect.",
				},
			},
		},
		// The empty requirement is for the unix socket, and for a host that joins with a token.
		Security: []map[string][]string{{clientCertificate: {}}, {}},
		Tags: []*huma.Tag{
			{Name: "volumes", Description: "Volumes: named data for containers"},
			{Name: "snapshots", Description: "Snapshots of volumes, and clones"},
			{Name: "trash", Description: "Datasets whose volume was deleted, until they are purged"},
			{Name: "profiles", Description: "Named sets of options for volumes"},
			{Name: "pools", Description: "Storage of a node, in which a backend keeps datasets"},
			{Name: "repositories", Description: "Places for backups outside of the pools"},
			{Name: "operations", Description: "Recorded work, and events"},
			{Name: "nodes", Description: "Nodes and members of the cluster"},
			{Name: "host", Description: "The host of the server, and its store"},
			{Name: agentsTag, Description: "Endpoints that agents call on control, each for its own node. " +
				"Operators do not use them"},
		},
		// Several tools, such as Redoc, show the groups of tags.
		Extensions: map[string]any{"x-tagGroups": []map[string]any{
			{"name": "For operators", "tags": []string{
				"volumes", "snapshots", "trash", "profiles", "pools", "repositories", "operations", "nodes", "host",
			}},
			{"name": "For agents", "tags": []string{agentsTag}},
		}},
	}
}

// agentsTag is the tag of the endpoints for agents.
const agentsTag = "agents"

// Document is the complete description of the API. JSON and YAML render it on their first call.
type Document struct {
	JSON, YAML func() ([]byte, error)
	Schemas    huma.Registry
}

// Complete adds the descriptions of schemas and properties to a document that has its endpoints. Nothing may be added
// to doc afterwards.
func Complete(doc *huma.OpenAPI) *Document {
	for name, text := range map[string]string{
		"Problem":       "An error, as RFC 9457 problem details",
		"ProblemRecord": "An error on record",
		"Volume":        "A volume, or a dataset in the trash, as people see it",
		"Dataset":       "What holds the bytes of a volume",
		"Snapshot":      "An immutable point in time of a dataset",
		"Operation":     "One piece of work on record",
		"Outcome":       "What a request came to. Without an operation nothing had to be done",
		"Profile":       "A named set of choices, resolved",
		"Pool":          "A pool as people see it",
		"PoolRecord":    "A place on one node where a backend keeps datasets",
		"Repository":    "A place for backups, in the format of restic",
		"Node":          "A host as people see it, with its facts",
		"NodeRecord":    "A host",
		"Facts":         "What an agent knows of its host",
		"Lease":         "The right of a node to have a dataset mounted for writing",
		"DatasetStatus": "What a node's agent sees of a dataset now",
		"PoolStatus":    "What a node's agent sees of a pool now",
		"Request":       "A change that is asked for. Which fields count depends on the kind",
		"Event":         "One thing that happened",
		"Finding":       "One line of doctor",
		"Rebuilt":       "What became of one dataset that was found in a pool",
		"Diff":          "By how much two points in time of a volume differ",
	} {
		if s := doc.Components.Schemas.Map()[name]; s != nil {
			s.Description = text
		}
	}
	describeProperties(doc.Components.Schemas)
	describeEndpoints(doc.Paths)
	return &Document{
		JSON: sync.OnceValues(func() ([]byte, error) { return json.Marshal(doc) }),
		YAML: sync.OnceValues(doc.YAML),

		Schemas: doc.Components.Schemas,
	}
}
