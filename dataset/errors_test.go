package dataset_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	code := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	for _, k := range dataset.Kinds() {
		if seen[k.Code] || !code.MatchString(k.Code) {
			t.Errorf("code %q is taken or badly spelt", k.Code)
		}
		seen[k.Code] = true
		if k.HTTP < 400 || k.HTTP > 599 || k.Exit != 1 && k.Exit != 2 || k.Title == "" || k.Title != strings.ToLower(k.Title) {
			t.Errorf("%s: %+v", k.Code, *k)
		}
		if (k.Exit == 2) != (k == dataset.ErrInvalid) {
			t.Errorf("%s exits with %d: wrong usage is ErrInvalid alone", k.Code, k.Exit)
		}
		if dataset.KindByCode(k.Code) != k || dataset.KindOf(k) != k || k.Error() != k.Title {
			t.Errorf("%s does not come back as itself", k.Code)
		}
		for _, other := range dataset.Kinds() {
			if errors.Is(k, other) != (k == other) {
				t.Errorf("%s is taken for %s", k.Code, other.Code)
			}
		}
	}
	for _, unknown := range []string{"", "Invalid", "no such code"} {
		if dataset.KindByCode(unknown) != dataset.ErrInternal {
			t.Errorf("code %q is no internal error", unknown)
		}
	}
}

// If a declared kind were missing in the table, users would see an internal error instead.
func TestEveryKindIsInTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	require.NoError(t, err)
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Err") {
			declared += len(spec.Names)
		}
		return true
	})
	if declared != len(dataset.Kinds()) {
		t.Errorf("%d kinds are declared, Kinds returns %d", declared, len(dataset.Kinds()))
	}
}

func TestKindOf(t *testing.T) {
	inner := dataset.Errorf(dataset.ErrNoSpace, "write %s: %w", "x", fs.ErrPermission)
	for _, c := range []struct {
		err  error
		want *dataset.Kind
	}{
		{nil, nil},
		{errors.New("plain"), dataset.ErrInternal},
		{fs.ErrNotExist, dataset.ErrInternal},
		{inner, dataset.ErrNoSpace},
		{fmt.Errorf("outer: %w", inner), dataset.ErrNoSpace},
		{dataset.Errorf(dataset.ErrOffline, "outer: %w", inner), dataset.ErrOffline},
		{errors.Join(errors.New("first"), inner), dataset.ErrNoSpace},
	} {
		if got := dataset.KindOf(c.err); got != c.want {
			t.Errorf("KindOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
	if inner.Error() != "write x: permission denied" || !errors.Is(inner, fs.ErrPermission) {
		t.Errorf("Errorf lost its text or its cause: %v", inner)
	}
}

// A failure is recorded, however long its text is. If the text were too large for the store, the failure could not be
// recorded, and the operation would be repeated for ever.
func TestProblemIsBounded(t *testing.T) {
	p := dataset.ProblemOf(dataset.Errorf(dataset.ErrCorrupt, "copy %s\n: no", strings.Repeat("é/", 1<<20)))
	if len(p.Message) > 8<<10 || !utf8.ValidString(p.Message) || !strings.HasPrefix(p.Message, "copy é/") || p.Code != "corrupt" {
		t.Errorf("%d bytes: %.40q", len(p.Message), p.Message)
	}
}

// Clip limits the text that an error repeats, and does not cut a character.
func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		strings.Repeat("x", 140):  strings.Repeat("x", 140),
		strings.Repeat("x", 141):  strings.Repeat("x", 137) + "...",
		strings.Repeat("é", 1000): strings.Repeat("é", 68) + "...",
	} {
		if got := dataset.Clip(in); got != want {
			t.Errorf("%d bytes: %q", len(in), got)
		}
	}
}

func TestProblem(t *testing.T) {
	if dataset.ProblemOf(nil) != nil || (*dataset.Problem)(nil).Err() != nil {
		t.Error("no error made a problem, or the other way round")
	}
	for _, k := range dataset.Kinds() {
		p := dataset.ProblemOf(dataset.Errorf(k, "100%% of %s", k.Code))
		b, err := json.Marshal(p)
		require.NoError(t, err)
		var read dataset.Problem
		require.NoError(t, json.Unmarshal(b, &read))
		if got := read.Err(); dataset.KindOf(got) != k || got.Error() != "100% of "+k.Code {
			t.Errorf("%s came back as %v", k.Code, got)
		}
	}
}

func TestNearest(t *testing.T) {
	have := []string{"profile", "size", "from", "fs", "pool", "owner", "mode", "label.KEY", "protect", "readonly", "gold", "silver"}
	for word, want := range map[string]string{
		"glod": "gold", "GOLD": "gold", "golds": "gold", "sise": "size", "sze": "size", "onwer": "owner",
		"read_only": "readonly", "read-only": "readonly", "protected": "protect", "Profile": "profile",
		"": "", "x": "", "xyz": "", "zfs": "fs", "unlimited": "", "retention": "",
		strings.Repeat("x", 200): "", strings.Repeat("x", 1<<20): "",
	} {
		if got := dataset.Nearest(word, have); got != want {
			t.Errorf("Nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
	if got := dataset.Nearest("gold", nil); got != "" {
		t.Errorf("Nearest of nothing = %q", got)
	}
	if got := dataset.FormatChoices(nil); got != "none" {
		t.Errorf("Have without words: %q, want none", got)
	}
	if got := dataset.FormatChoices([]string{"b", "c", "a"}); got != "a, b, c" {
		t.Errorf("FormatChoices = %q", got)
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"72h": 72 * time.Hour, "1h30m": 90 * time.Minute, "0s": 0} {
		var d dataset.Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || time.Duration(d) != want {
			t.Errorf("%q: %v, %v", in, time.Duration(d), err)
		}
		b, _ := d.MarshalText()
		var again dataset.Duration
		if err := again.UnmarshalText(b); err != nil || again != d {
			t.Errorf("%q was written as %q and read as %v, %v", in, b, again, err)
		}
	}
	for _, in := range []string{"", "72", "3x", "-1h", "1h ", "1000000000h", strings.Repeat("1", 500) + "h"} {
		var d dataset.Duration
		refused(t, in, d.UnmarshalText([]byte(in)), "expected a number and a unit")
	}
}

// The records that are written to the store and beside the data are read back unchanged.
func TestRecordsRoundTrip(t *testing.T) {
	id := uuid.MustParse("f23ca986-8f0c-4a08-9c5c-1b2c3d4e5f60")
	mode := uint32(0o750)
	at := time.Date(2026, 11, 20, 8, 0, 0, 123456789, time.UTC)
	p := dataset.Profile{
		Name: "gold", Revision: "0123456789ab", Size: 20 << 30, Quiesce: dataset.QuiesceFreeze,
		Snapshots: dataset.Snapshots{Required: true, Schedule: "@daily", Keep: dataset.Keep{Last: 4}},
		OnDelete:  dataset.OnDelete{Mode: dataset.DeleteTrash, Trash: dataset.Duration(72 * time.Hour)},
		Owner:     &dataset.Owner{UID: 999, GID: 999, Mode: &mode},
	}
	roundTrip(t, dataset.Dataset{
		ID: id, Volume: "db", RequestedAs: "db@gold", State: dataset.StateTrashed, Profile: p, Size: 1, Epoch: 1<<63 + 1,
		Origin: &dataset.Origin{Dataset: id, Implicit: true}, Created: at, Trash: &dataset.Trash{At: at},
	})
	roundTrip(t, dataset.Snapshot{ID: id, Dataset: id, Kind: dataset.SnapshotManual, Profile: p, Created: at})
	roundTrip(t, dataset.Operation{
		ID: id, Kind: dataset.OpClone, State: dataset.OpFailed, Source: &dataset.Source{Dataset: id},
		Problem: dataset.ProblemOf(dataset.ErrNoSpace), Created: at,
	})
	for _, s := range []dataset.OpState{dataset.OpPending, dataset.OpRunning} {
		if s.Final() {
			t.Errorf("%s is final", s)
		}
	}
	for _, s := range []dataset.OpState{dataset.OpDone, dataset.OpFailed, dataset.OpCancelled} {
		if !s.Final() {
			t.Errorf("%s is not final", s)
		}
	}
}

func roundTrip[T any](t *testing.T, v T) {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	var got T
	require.NoError(t, json.Unmarshal(b, &got))
	if diff := cmp.Diff(v, got); diff != "" {
		t.Errorf("%T: %s", v, diff)
	}
}

func TestPendingOn(t *testing.T) {
	op := uuid.New()
	err := fmt.Errorf("mount: %w", dataset.PendingOn(op, "create of volume %s goes on", "db"))
	if dataset.KindOf(err) != dataset.ErrPending || dataset.ContinuesAs(err) != op || err.Error() != "mount: create of volume db goes on" {
		t.Errorf("got %v of kind %v, operation %s", err, dataset.KindOf(err), dataset.ContinuesAs(err))
	}
	for _, err := range []error{nil, dataset.ErrPending, dataset.Errorf(dataset.ErrOffline, "no node takes over: %w", err)} {
		if got := dataset.ContinuesAs(err); got != uuid.Nil {
			t.Errorf("%v: got operation %s, want none", err, got)
		}
	}
}

// A later format is refused by its number, whatever its other keys are. A damaged record is not a later format.
func TestDecodeFormat(t *testing.T) {
	for text, want := range map[string]error{
		`{"name":"a"}`:                             nil,
		`{"format":1,"name":"a"}`:                  nil,
		`{"format":2,"name":"a","new":{}}`:         nil,
		`{"format":3,"name":"a"}`:                  dataset.ErrUnsupported,
		`{"name":{"first":"a"},"format":17}`:       dataset.ErrUnsupported,
		`{"format":3,"name":"a"`:                   errDamaged,
		`{"name":1}`:                               errDamaged,
		`{"format":99999999999999999999,"name":1}`: errDamaged,
	} {
		var v struct {
			Name string `json:"name"`
		}
		err := dataset.DecodeFormat([]byte(text), "the record", 2, &v)
		switch {
		case errors.Is(want, errDamaged):
			if err == nil || errors.Is(err, dataset.ErrUnsupported) {
				t.Errorf("%s: got error %v, want one of a damaged record", text, err)
			}
		case !errors.Is(err, want):
			t.Errorf("%s: got error %v, want %v", text, err, want)
		case err == nil && v.Name != "a":
			t.Errorf("%s: the name is %q, want a", text, v.Name)
		}
	}
	const message = "the record has format 3, and this drover reads formats up to 2: upgrade this drover"
	if err := dataset.CheckFormat("the record", 3, 2); err == nil || err.Error() != message {
		t.Errorf("got error %v, want %s", err, message)
	}
}

var errDamaged = errors.New("damaged")

func TestDamagedRecordIsAnError(t *testing.T) {
	for _, b := range []string{``, `{`, `[]`, `{"volume":`, `{"volume":"db","losses":7}`, `"volume":`} {
		if err := dataset.DecodeRecord([]byte(b), new(dataset.Dataset)); err == nil {
			t.Errorf("%q was decoded", b)
		}
	}
}

// A key in another case is another key, as for a parser of any other language.
func TestCaseOfAKeyCounts(t *testing.T) {
	var d dataset.Dataset
	if err := dataset.DecodeRecord([]byte(`{"volume":"db","Volume":"other","new":1}`), &d); err != nil || d.Volume != "db" {
		t.Errorf("got volume %q, %v; want db", d.Volume, err)
	}
}

// BenchmarkDecodeRecord compares the decoding of 1,000 records with that of package encoding/json.
func BenchmarkDecodeRecord(b *testing.B) {
	var all []dataset.Dataset
	for range 1000 {
		all = append(all, dataset.Dataset{
			ID: uuid.New(), Volume: "orders-of-the-shop", Home: uuid.New(), Pool: uuid.New(), State: dataset.StateReady,
			Profile: dataset.Profile{Name: "gold", Size: 20 << 30}, Created: time.Now(), Labels: map[string]string{"team": "shop"},
		})
	}
	text, err := json.Marshal(all)
	require.NoError(b, err)
	for name, decode := range map[string]func([]byte, any) error{
		"records": dataset.DecodeRecord, "encoding-json": json.Unmarshal,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				var got []dataset.Dataset
				if err := decode(text, &got); err != nil || len(got) != len(all) {
					b.Fatalf("got %d records, %v", len(got), err)
				}
			}
		})
	}
}

// TestActionOfOperation: the action of an operation is the command that was given.
func TestActionOfOperation(t *testing.T) {
	for record, want := range map[string]string{
		`{"kind": "update", "options": {"profile": "gold"}}`: "set-profile",
		`{"kind": "resize", "options": {"profile": "gold"}}`: "set-profile",
		`{"kind": "resize"}`: "resize",
		`{"kind": "update", "options": {"protect": "true"}}`:               "protect",
		`{"kind": "update", "options": {"protect": "false"}}`:              "unprotect",
		`{"kind": "update", "options": {"label.a": "1", "unlabel.b": ""}}`: "label",
		`{"kind": "update", "options": {"unlabel.profile": ""}}`:           "label",
		`{"kind": "update"}`: "update",
		`{"kind": "rename"}`: "rename",
		`{"kind": "create", "options": {"profile": "gold", "label.a": "1"}}`: "create",
	} {
		var op dataset.Operation
		require.NoError(t, dataset.DecodeRecord([]byte(record), &op))
		if got := op.Action(); got != want {
			t.Errorf("%s: got %s, want %s", record, got, want)
		}
	}
}
