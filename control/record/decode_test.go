package record_test

import (
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/controltest/expect"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// someday is a Wednesday, noon.
var someday = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

func TestDecode(t *testing.T) {
	id, other := uuid.New(), uuid.New()
	d := dataset.Dataset{ID: id, State: dataset.StateReady}
	trashed := dataset.Dataset{ID: id, State: dataset.StateTrashed, Trash: &dataset.Trash{At: someday}}
	for _, c := range []struct {
		key   string
		value any
		into  any
		want  string // of the error; "" for no error
	}{
		{record.NameKey("db"), record.Claim{ID: id}, &record.Claim{}, ""},
		{record.NameKey("db"), record.Claim{}, &record.Claim{}, "target is missing"},
		{record.UUIDKey(id), record.UUIDPointer{Dataset: id}, &record.UUIDPointer{}, ""},
		{record.UUIDKey(id), record.UUIDPointer{Snapshot: true}, &record.UUIDPointer{}, "target is missing"},
		{record.DatasetKey(id), d, &dataset.Dataset{}, ""},
		{record.DatasetKey(other), d, &dataset.Dataset{}, "the value of another key, " + record.DatasetKey(id)},
		{record.DatasetKey(id), trashed, &dataset.Dataset{}, ""},
		{record.DatasetKey(id), dataset.Dataset{ID: id, State: dataset.StateTrashed}, &dataset.Dataset{}, "the time of " +
			"deletion"},
		{record.DatasetKey(id), dataset.Dataset{ID: id, State: "lost"}, &dataset.Dataset{}, `"lost"`},
		{record.DatasetKey(id), nil, &dataset.Dataset{}, "state"},
		{record.SnapshotKey(id, other), dataset.Snapshot{ID: other, Dataset: id}, &dataset.Snapshot{}, ""},
		{record.SnapshotKey(id, other), dataset.Snapshot{ID: id, Dataset: other}, &dataset.Snapshot{}, "value of"},
		{record.LeaseKey(id), dataset.Lease{Dataset: id}, &dataset.Lease{}, ""},
		{record.LeaseKey(id), dataset.Lease{Dataset: other}, &dataset.Lease{}, "value of"},
		{record.NodeKey(id), dataset.Node{ID: other}, &dataset.Node{}, "value of"},
		{record.PoolKey(id), dataset.Pool{ID: other}, &dataset.Pool{}, "value of"},
		{record.GenerationKey(id), record.Generation{Pool: other, Highest: 1}, &record.Generation{}, "value of"},
		{record.OperationKey(id), dataset.Operation{ID: other}, &dataset.Operation{}, "value of"},
		{record.OperationKey(id), dataset.Operation{ID: id}, &dataset.Operation{}, ""},
		{record.TrashKey(id), dataset.Trash{At: someday}, &dataset.Trash{}, ""},
		{record.TrashKey(id), "soon", &dataset.Trash{}, "json"},
	} {
		b, err := json.Marshal(c.value)
		require.NoError(t, err)
		err = record.Decode(c.key, b, c.into)
		if c.want == "" && err == nil {
			continue
		}
		if c.want == "" {
			t.Errorf("%s: %v", c.key, err)
			continue
		}
		expect.Refusal(t, err, dataset.ErrCorrupt, c.key, c.want)
	}
}

func TestIDIn(t *testing.T) {
	id := uuid.New()
	if got, err := record.ParseKey(record.TrashKey(id), record.TrashPrefix); err != nil || got != id {
		t.Errorf("%s, %v", got, err)
	}
	for _, odd := range []string{
		"", "x", strings.ToUpper(id.String()), "{" + id.String() + "}", "urn:uuid:" + id.String(),
		strings.ReplaceAll(id.String(), "-", ""), id.String() + "/x",
	} {
		_, err := record.ParseKey(record.TrashPrefix+odd, record.TrashPrefix)
		expect.Refusal(t, err, dataset.ErrCorrupt, record.TrashPrefix+odd)
	}
}

// DecodeClaim accepts and refuses what Decode does.
func TestDecodeClaim(t *testing.T) {
	const id = "f23ca986-0000-4000-8000-000000000001"
	for _, value := range []string{
		`{"id":"` + id + `"}`, `{"id": "` + id + `"}`, `{"id":"` + id + `","more":1}`, `{"id":"` + strings.ToUpper(id) + `"}`,
		`{"id":"` + id + `"} `, `{"id":"` + id + `"}}`, `{"id":"` + id[1:] + `"}`, `{"id":"` + id[1:] + `x"}`,
		`{"id":"00000000-0000-0000-0000-000000000000"}`, `{"ID":"` + id + `"}`, `{}`, ``, `null`,
	} {
		var c record.Claim
		want := record.Decode(record.NameKey("db"), []byte(value), &c)
		got, err := record.DecodeClaim(record.NameKey("db"), []byte(value))
		if dataset.KindOf(err) != dataset.KindOf(want) || want == nil && got != c.ID {
			t.Errorf("%s: got %s, %v, want %s, %v", value, got, err, c.ID, want)
		}
	}
}

// TestNodeKeysAreComplete expects that each function that returns a key of a node is called by NodeKeys, or is an
// exception with a reason. Otherwise a new record of a node would stay when the node is removed.
func TestNodeKeysAreComplete(t *testing.T) {
	exceptions := map[string]string{
		"RevokedNodeKey": "stays, so that the removed node cannot come back",
		"LiveNodeKey":    "is deleted with the session of the agent",
		"HomeKey":        "a node with datasets is not removed",
		"CopyKey":        "noderemoval removes each copy, and checks that it is not the only one",
		"SharedMountKey": "noderemoval removes each shared mount",
		"WorkKey":        "noderemoval ends each operation",
	}
	file, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var keys, listed []string
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil {
			continue
		}
		if fn.Name.Name == "NodeKeys" {
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					listed = append(listed, call.Fun.(*ast.Ident).Name)
				}
				return true
			})
			continue
		}
		params := fn.Type.Params.List
		if strings.HasSuffix(fn.Name.Name, "Key") && len(params) > 0 && params[0].Names[0].Name == "node" {
			keys = append(keys, fn.Name.Name)
		}
	}
	for _, key := range keys {
		if _, excepted := exceptions[key]; excepted == slices.Contains(listed, key) {
			t.Errorf("%s must be in NodeKeys or in the exceptions of this test, and not in both", key)
		}
		delete(exceptions, key)
	}
	if len(keys) < 8 || len(exceptions) > 0 {
		t.Errorf("got %d keys of nodes in keys.go: %v; exceptions without a key: %v", len(keys), keys, exceptions)
	}
}

// An error of the store keeps its kind, and an unknown outcome stays unknown.
func TestErrorsOfStores(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	refusedConnection := errors.New("connection refused")
	for _, c := range []struct {
		ctx         context.Context
		err         error
		read, write *dataset.Kind
	}{
		{context.Background(), refusedConnection, dataset.ErrUnavailable, dataset.ErrUnavailable},
		{context.Background(), store.ErrClosed, dataset.ErrUnavailable, dataset.ErrUnavailable},
		{context.Background(), store.ErrTooLarge, dataset.ErrUnavailable, dataset.ErrInvalid},
		{context.Background(), context.DeadlineExceeded, dataset.ErrUnavailable, dataset.ErrUnavailable}, // from the store itself
		{context.Background(), dataset.Errorf(dataset.ErrNoSpace, "disk full"), dataset.ErrUnavailable, dataset.ErrUnavailable},
		{context.Background(), dataset.Errorf(dataset.ErrCorrupt, "value of x"), dataset.ErrCorrupt, dataset.ErrCorrupt},
		{context.Background(), dataset.Errorf(dataset.ErrInvalid, "bad key"), dataset.ErrInvalid, dataset.ErrInvalid},
		{ended, refusedConnection, dataset.ErrInternal, dataset.ErrInternal},
	} {
		for i, got := range []error{record.ReadError(c.ctx, c.err), record.CommitError(c.ctx, c.err)} {
			if want := []*dataset.Kind{c.read, c.write}[i]; dataset.KindOf(got) != want {
				t.Errorf("%v: %v, want %s", c.err, got, want.Code)
			}
			if c.ctx.Err() != nil && !errors.Is(got, context.Canceled) {
				t.Errorf("%v does not say that the caller has left", got)
			}
		}
	}
	if record.ReadError(ended, nil) != nil {
		t.Error("a late result without an error is an error")
	}
}
