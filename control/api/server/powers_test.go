package server

import (
	"crypto/tls"
	"encoding/json"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/require"
)

// power is what an endpoint, or one of its fields, lets a caller do beyond looking at records.
type power string

const (
	changes  power = "changes"  // volumes, snapshots and operations
	vouches  power = "vouches"  // it says that a node writes no more, or that what a pool lacks is lost
	destroys power = "destroys" // data, or a protection of data, is gone
	reads    power = "reads"    // all of a volume, or of the store, goes to the caller
	hostFile power = "host"     // it names any file or device of a host, which root of that host then uses
	trusts   power = "trusts"   // it says who belongs to the cluster
	decides  power = "decides"  // it submits a request: control looks at its fields, see TestI1WhoMaySubmitWhat
)

// endpointPowers has a row for each endpoint that is not for agents: what it lets a caller do, the least
// role of the operators who may, and whether nodes may.
var endpointPowers = map[string]struct {
	powers []power
	role   pki.Role
	nodes  bool
}{
	"list-volumes": {nil, pki.Viewer, true}, "get-volume": {nil, pki.Viewer, true},
	"list-snapshots": {nil, pki.Viewer, true}, "get-snapshot": {nil, pki.Viewer, true}, "diff-snapshot": {nil, pki.Viewer, true},
	"measure-snapshot": {nil, pki.Viewer, true}, "list-volume-io": {nil, pki.Viewer, false}, "list-holders": {nil, pki.Viewer, false},
	"list-trash": {nil, pki.Viewer, true}, "list-profiles": {nil, pki.Viewer, true}, "get-profile": {nil, pki.Viewer, true},
	"list-pools": {nil, pki.Viewer, true}, "list-nodes": {nil, pki.Viewer, true}, "get-failover": {nil, pki.Viewer, true},
	"get-health":      {nil, pki.Viewer, true},
	"list-operations": {nil, pki.Viewer, true}, "get-operation": {nil, pki.Viewer, true}, "get-events": {nil, pki.Viewer, true},
	"get-version": {nil, pki.Viewer, true}, "get-trust": {nil, pki.Viewer, true}, "doctor": {nil, pki.Viewer, false},

	"submit-operation":   {[]power{decides}, pki.Worker, true},
	"cancel-operation":   {[]power{changes}, pki.Worker, true},
	"create-volume":      {[]power{decides}, pki.Worker, true},
	"delete-volume":      {[]power{decides, destroys}, pki.Worker, true},
	"resize-volume":      {[]power{decides}, pki.Worker, true},
	"rekey-volume":       {[]power{decides}, pki.Worker, true},
	"back-up-volume":     {[]power{decides}, pki.Worker, true},
	"push-volume":        {[]power{decides}, pki.Worker, true},
	"verify-backup":      {[]power{decides}, pki.Worker, true},
	"set-volume-profile": {[]power{decides}, pki.Worker, true},
	"rename-volume":      {[]power{decides}, pki.Worker, true},
	"drop-alias":         {[]power{decides}, pki.Worker, true},
	"protect-volume":     {[]power{decides, destroys}, pki.Worker, true},
	"import-volume":      {[]power{decides}, pki.Worker, true},
	"create-snapshot":    {[]power{decides, destroys}, pki.Worker, true},
	"delete-snapshot":    {[]power{decides, destroys}, pki.Worker, true},
	"restore-snapshot":   {[]power{decides, destroys}, pki.Worker, true},
	"create-clone":       {[]power{decides, reads}, pki.Worker, true},
	"restore-trash":      {[]power{decides}, pki.Worker, true},
	"purge-trash":        {[]power{decides, destroys}, pki.Worker, true},
	"empty-trash":        {[]power{decides, destroys}, pki.Worker, true},
	"export-volume":      {[]power{reads}, pki.Worker, false},
	"upload-volume":      {[]power{changes}, pki.Worker, false},

	"create-pool":     {[]power{hostFile, destroys}, pki.Admin, false},
	"adopt-pool":      {[]power{hostFile}, pki.Admin, false},
	"accept-pool":     {[]power{vouches}, pki.Admin, false},
	"set-pool":        {[]power{changes}, pki.Admin, false},
	"remove-pool":     {[]power{destroys}, pki.Admin, false},
	"collect":         {[]power{destroys}, pki.Admin, false},
	"rebuild-store":   {[]power{changes}, pki.Admin, false},
	"recover-store":   {[]power{vouches}, pki.Admin, false},
	"backup-store":    {[]power{reads}, pki.Admin, false},
	"cordon-node":     {[]power{changes}, pki.Admin, false},
	"label-node":      {[]power{changes}, pki.Admin, false},
	"fence-node":      {[]power{vouches}, pki.Admin, false},
	"remove-node":     {[]power{vouches, destroys, trusts}, pki.Admin, false},
	"make-token":      {[]power{trusts}, pki.Admin, false},
	"revoke-operator": {[]power{trusts}, pki.Admin, false},

	"list-repositories": {nil, pki.Viewer, true}, "get-repository": {nil, pki.Viewer, true},
	"add-repository":    {[]power{hostFile}, pki.Admin, false},
	"remove-repository": {[]power{changes}, pki.Admin, false},
	"check-repository":  {[]power{hostFile}, pki.Admin, false},
	"list-backups":      {nil, pki.Worker, false},
	"list-versions":     {nil, pki.Worker, false},
	"get-backup":        {nil, pki.Worker, false},
	"remove-backup":     {[]power{destroys}, pki.Admin, false},
	"prune-repository":  {[]power{destroys}, pki.Admin, false},

	"preview-remove-pool": {nil, pki.Admin, false}, "preview-collect": {nil, pki.Admin, false}, "preview-remove-node": {nil, pki.Admin, false},
}

// fieldPowers has a row for each query parameter and each member of a body, by its name, of the endpoints
// above. A new one needs a row here.
var fieldPowers = map[string][]power{
	"after": nil, "limit": nil, "filter": nil, "follow": nil, "Last-Event-ID": nil, "Prefer": nil, "wait": nil, "ttl": nil,
	"operation": nil, "id": nil, "kind": nil, "volume": nil, "options": nil, "o": nil, "source": nil, "snapshot": nil, "newer": nil,
	"name": nil, "message": nil, "size": nil, "profile": nil, "live": nil, "engine": nil, "node": nil, "failover": nil,
	"dry_run": nil,
	"backend": nil, "image": nil, "pool": nil, "cordoned": nil, "draining": nil, "overcommit": nil,
	"labels": nil, "set": nil, "remove": nil,
	"version":    nil,                // the agent compares it with the backup
	"repository": nil, "backup": nil, // only a recorded repository
	"protect": {destroys}, "scheduled": {destroys}, "force": {destroys, vouches}, "forget": {destroys},
	"fenced": {vouches}, "fenced_nodes": {vouches}, "confirmed": {vouches}, "digest": {vouches}, "skip_offline": {vouches},
	"path": {hostFile}, "old_key_file": {hostFile}, "devices": {hostFile},
	"new": {hostFile}, "init": {hostFile}, "read_data_percent": nil,
	"url": {hostFile}, "password": {hostFile}, "credentials_file": {hostFile}, "max_upload": nil, "max_read": nil,
	"check":         nil, // a program that root of the node has put below /etc/drover/checks
	"store_records": nil, "insecure": nil, "kept_apart": nil,
	"take_over": nil, // it only resumes the scheduled backups of the volume's profile
}

// Each endpoint and each of its fields has a row that says what it lets a caller do. The role admin is required
// to confirm a fence, to name a file of a host, or to change who is a member. It is checked here or, for
// submitted requests, in control.
func TestI1WhoMayUseEachEndpoint(t *testing.T) {
	seen := map[string]bool{}
	for id, fields := range fieldsOfEndpoints(t) {
		row, known := endpointPowers[id]
		if !known {
			t.Errorf("endpoint %s has no row in endpointPowers", id)
			continue
		}
		seen[id] = true
		powers := slices.Clone(row.powers)
		for _, f := range fields {
			of, known := fieldPowers[f]
			if !known {
				t.Errorf("field %s of %s has no row in fieldPowers", f, id)
			}
			powers = append(powers, of...)
		}
		rule := rowOf(id)
		adminOnly := row.role == pki.Admin && !row.nodes
		for _, p := range []power{vouches, hostFile, trusts} {
			if slices.Contains(powers, p) && !adminOnly && !slices.Contains(row.powers, decides) {
				t.Errorf("%s %s, and is not for admins alone", id, p)
			}
		}
		if len(powers) > 0 && row.role == pki.Viewer {
			t.Errorf("%s %v, and a viewer may", id, powers)
		}
		// A change is in the audit log in any case.
		if carries := slices.Contains(row.powers, reads) && !slices.Contains(row.powers, decides); rule.Access.Exports != carries {
			t.Errorf("%s: it carries data out: %t, and the audit log has it: %t", id, carries, rule.Access.Exports)
		}
		for who, may := range map[api.Principal]bool{
			{Identity: operator(pki.Viewer)}: pki.Viewer.Covers(row.role),
			{Identity: operator(pki.Worker)}: pki.Worker.Covers(row.role),
			{Identity: operator(pki.Admin)}:  true,
			{Identity: nodeA}:                row.nodes,
			{Identity: controlC}:             false,
			{}:                               false,
		} {
			if err := allows(rule, who, uuid.Nil.String()); (err == nil) != may {
				t.Errorf("%s: %s: %v", id, who, err)
			}
		}
	}
	if len(seen) != len(endpointPowers) {
		t.Errorf("rows of no endpoint: seen %v", slices.Sorted(maps.Keys(seen)))
	}
}

func rowOf(id string) endpoint.Endpoint {
	return endpoint.All[slices.IndexFunc(endpoint.All, func(e endpoint.Endpoint) bool { return e.ID == id })]
}

// fieldsOfEndpoints reads the parameters and the members of the body of each endpoint from the document. It
// leaves out joining, and the endpoints for agents, which act for their own node.
func fieldsOfEndpoints(t *testing.T) map[string][]string {
	t.Helper()
	_, body := raw(t, Handler(Deps{Service: newFake()}), "GET", "/v1/openapi.json", "")
	type schema struct {
		Ref        string `json:"$ref"`
		Properties map[string]json.RawMessage
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string
			Parameters  []struct{ Name, In string }
			RequestBody struct {
				Content map[string]struct{ Schema schema }
			}
		}
		Components struct{ Schemas map[string]schema }
	}
	require.NoError(t, json.Unmarshal([]byte(body), &doc))
	all := map[string][]string{}
	for path, methods := range doc.Paths {
		for _, op := range methods {
			if access := rowOf(op.OperationID).Access; access.Nodes == endpoint.OwnNode || access.Anonymous {
				continue
			}
			fields := []string{}
			for _, p := range op.Parameters {
				if p.In != "path" {
					fields = append(fields, p.Name)
				}
			}
			content := op.RequestBody.Content["application/json"].Schema
			if name := strings.TrimPrefix(content.Ref, "#/components/schemas/"); name != content.Ref {
				content = doc.Components.Schemas[name]
			}
			if len(op.RequestBody.Content) > 0 && len(content.Properties) == 0 && op.OperationID != "upload-volume" {
				t.Errorf("%s: a body without members that can be seen here", path)
			}
			all[op.OperationID] = slices.AppendSeq(fields, maps.Keys(content.Properties))
		}
	}
	return all
}

// Without Deps.Peer nobody may ask over TLS, not even to join.
func TestNobodyToTellWhoAsks(t *testing.T) {
	h := Handler(Deps{Service: newFake()})
	for _, path := range []string{"/v1/join", "/v1/volumes"} {
		r := httptest.NewRequest("POST", path, strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		r.TLS = &tls.ConnectionState{}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 403 || !strings.Contains(w.Body.String(), "this address accepts no requests") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
