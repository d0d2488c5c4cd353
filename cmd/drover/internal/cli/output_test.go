package cli

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestUniquePoolName: the node is part of the name only if another pool has the same name. Pools that could not be
// opened have no ID, but those of two nodes differ.
func TestUniquePoolName(t *testing.T) {
	one, two := uuid.New(), uuid.New()
	pool := func(node uuid.UUID, nodeName, name string, id uuid.UUID) api.Pool {
		return api.Pool{Pool: dataset.Pool{ID: id, Node: node, Name: name}, NodeName: nodeName}
	}
	pools := []api.Pool{
		pool(one, "host-a", "fast", uuid.New()), pool(two, "host-b", "fast", uuid.New()),
		pool(one, "host-a", "failed", uuid.Nil), pool(two, "host-b", "failed", uuid.Nil),
		pool(one, "host-a", "plain", uuid.New()), pool(two, "host-b", "other", uuid.Nil),
	}
	want := []string{"host-a/fast", "host-b/fast", "host-a/failed", "host-b/failed", "plain", "other"}
	for i, p := range pools {
		if got := UniquePoolName(p, pools); got != want[i] {
			t.Errorf("pool %s of %s: got %s, want %s", p.Name, p.NodeName, got, want[i])
		}
	}
}

func TestTable(t *testing.T) {
	tests := map[string]struct {
		rows  [][]string
		paint bool
		want  string
	}{
		"empty prints the headers": {want: "NAME   SIZE   MESSAGE\n"},
		"columns are as wide as their widest cell": {
			rows: [][]string{{"db", "20GiB", "first"}, {"a-longer-name", "1GiB", ""}},
			want: "NAME            SIZE    MESSAGE\n" +
				"db              20GiB   first\n" +
				"a-longer-name   1GiB    -\n",
		},
		"letters count, not bytes": {
			rows: [][]string{{"größe", "1B", "ü"}, {"x", "2B", "y"}},
			want: "NAME    SIZE   MESSAGE\ngröße   1B     ü\nx       2B     y\n",
		},
		"a cell cannot break out of its row": {
			rows: [][]string{{"db", "1B", "a\nb\x1b[31m"}},
			want: "NAME   SIZE   MESSAGE\ndb     1B     a\\nb\\x1b[31m\n",
		},
		"colour takes no room": {
			rows: [][]string{{"db", "1B", "m"}}, paint: true,
			want: "NAME   SIZE   MESSAGE\n\x1b[31mdb\x1b[0m     1B     m\n",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tab := NewTable("NAME", "SIZE", "MESSAGE")
			for _, r := range tc.rows {
				tab.Row(r...)
			}
			if tc.paint {
				tab.Paint(0, Palette{on: true}.Red)
			}
			var b bytes.Buffer
			require.NoError(t, tab.Write(&b))
			if d := cmp.Diff(tc.want, b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestForm(t *testing.T) {
	var f Form
	f.Add("Volume", "db")
	f.Add("Labels")
	f.Add("Origin", "")
	f.Add("Mounted by", "one\ttwo", "", "three")
	var b bytes.Buffer
	require.NoError(t, f.Write(&b))
	want := "Volume:      db\nMounted by:  one\\ttwo\n             three\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestCleanIsOnePrintableLineAndLeavesPrintableTextAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "in")
		out := Clean(in)
		printable := utf8.ValidString(in)
		for _, r := range in {
			printable = printable && unicode.IsPrint(r)
		}
		if printable && out != in {
			t.Fatalf("changed %q to %q", in, out)
		}
		for _, r := range out {
			if !unicode.IsPrint(r) || r == '\n' {
				t.Fatalf("%q of %q is not printable", out, in)
			}
		}
	})
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü 本": "plain ü 本", "a\r\nb": `a\r\nb`, "\x1b]0;x\a": `\x1b]0;x\a`,
		"\xff": `\xff`, "\u202eevil": `\u202eevil`, "\u0085": `\u0085`, "\uFFFD": "\uFFFD",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "just now", time.Millisecond: "just now", -5 * time.Second: "5 seconds ago", -3 * time.Hour: "3 hours ago",
		72 * time.Hour: "in 3 days", time.Minute: "in about a minute",
	} {
		if got := Ago(now, now.Add(d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := Ago(now, time.Time{}) + When(now, time.Time{}); got != "--" {
		t.Errorf("zero times: %q", got)
	}
	then := now.Add(-time.Hour).In(time.FixedZone("X", 3600))
	if got, want := When(now, then), "2026-03-01 11:00:00 UTC (about an hour ago)"; got != want {
		t.Errorf("When: %q, want %q", got, want)
	}
}

func TestShortenTellsEachFromAllOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOf(rapid.Custom(func(t *rapid.T) (id uuid.UUID) {
			copy(id[:], "\xf2\x3c\xa9\x86") // likely to be alike
			id[rapid.IntRange(0, 15).Draw(t, "at")] = byte(rapid.IntRange(0, 3).Draw(t, "to"))
			return id
		})).Draw(t, "ids")
		short := Shorten(ids)
		for _, id := range ids {
			s := short(id)
			if len(s) < ShortLength || !strings.HasPrefix(id.String(), s) {
				t.Fatalf("%q is no prefix of %s", s, id)
			}
			for _, other := range ids {
				if other != id && strings.HasPrefix(other.String(), s) {
					t.Fatalf("%q of %s names %s too", s, id, other)
				}
			}
		}
	})
}

func TestShortenLeavesUnknownWhole(t *testing.T) {
	id := uuid.MustParse("f23ca986-0000-4000-8000-000000000001")
	if got := Shorten([]uuid.UUID{id, id})(id); got != "f23ca986" {
		t.Errorf("got %q", got)
	}
	if got := Shorten(nil)(id); got != id.String() {
		t.Errorf("got %q", got)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := JSONList[string](&b, nil); err != nil || b.String() != "[]\n" {
		t.Errorf("%v %q", err, b.String())
	}
	b.Reset()
	if err := Line(&b, map[string]string{"a": "<&>"}); err != nil || b.String() != "{\"a\":\"<&>\"}\n" {
		t.Errorf("%v %q", err, b.String())
	}
}

// TestYAMLHasNoEscapeSequences: terminals execute them. An item whose YAML has one is printed as JSON, which is YAML.
func TestYAMLHasNoEscapeSequences(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, YAML(&out, map[string]string{"name": "bad\x1b[2J"}))
	if got := out.String(); strings.Contains(got, "\x1b") || !strings.Contains(got, `bad\u001b[2J`) {
		t.Errorf("printed %q, want the escape sequence as text", got)
	}
}

// TestMerge: equal findings of several nodes become one, whose subject names the nodes. It names no node if the local
// node is the only one.
func TestMerge(t *testing.T) {
	down := api.Finding{Level: api.LevelWarning, Subject: "guard", Text: "does not answer"}
	full := api.Finding{Level: api.LevelError, Subject: "root", Text: "is full"}
	other := api.Finding{Level: api.LevelError, Subject: "root", Text: "is full", Fix: "df -h"}
	of := func(node string, f api.Finding) OfNode { return OfNode{Node: node, Finding: f} }
	named := func(f api.Finding, subject string) api.Finding { f.Subject = subject; return f }
	for name, c := range map[string]struct {
		all  []OfNode
		want []api.Finding
	}{
		"none":            {nil, []api.Finding{}},
		"local":           {[]OfNode{of("a", down)}, []api.Finding{down}},
		"remote":          {[]OfNode{of("b", down)}, []api.Finding{named(down, "guard on b")}},
		"both":            {[]OfNode{of("b", down), of("a", down)}, []api.Finding{named(down, "guard on a, b")}},
		"repeated":        {[]OfNode{of("a", down), of("a", down)}, []api.Finding{down}},
		"errors first":    {[]OfNode{of("a", down), of("a", full)}, []api.Finding{full, down}},
		"another fix":     {[]OfNode{of("b", full), of("c", other)}, []api.Finding{named(full, "root on b"), named(other, "root on c")}},
		"more than three": {[]OfNode{of("b", down), of("c", down), of("d", down), of("e", down)}, []api.Finding{named(down, "guard on b, c, d and 1 more")}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, Merge(c.all, "a")); d != "" {
				t.Errorf("Merge (-want +got):\n%s", d)
			}
		})
	}
}

// home answers about the volume db of node host-b.
type home struct {
	Remote

	held dataset.Holders
	err  error // of VolumeHolders
	none error // of Volume
}

func (h home) VolumeHolders(context.Context, string) (dataset.Holders, error) { return h.held, h.err }

func (h home) Volume(context.Context, string) (v api.Volume, err error) {
	v.Volume, v.Node = "db", "host-b"
	return v, h.none
}

// TestRefusalSaysWhoUses: the first line is the unchanged error. If this host is the home, the holders follow,
// otherwise the node that knows them.
func TestRefusalSaysWhoUses(t *testing.T) {
	held := dataset.Holders{Node: "host-b", Unexamined: []string{"process 9"}}
	inUse := dataset.Errorf(dataset.ErrInUse, "volume db is in use")
	const first = "drover: volume db is in use\n"
	for name, c := range map[string]struct {
		err  error
		home home
		want string
	}{
		"home":            {inUse, home{held: held}, first + "drover: on node host-b: not examined, and may use it: process 9\n"},
		"nobody uses it":  {inUse, home{}, first},
		"no answer":       {inUse, home{err: dataset.ErrUnavailable}, first},
		"not in use":      {dataset.Errorf(dataset.ErrNotFound, "no volume db"), home{held: held}, "drover: no volume db\n"},
		"unknown to both": {inUse, home{err: dataset.ErrUnsupported, none: dataset.ErrUnavailable}, first},
		"another node": {
			inUse, home{err: dataset.ErrUnsupported},
			first + "drover: only node host-b knows who uses it: run drover volume inspect db there\n",
		},
	} {
		var out bytes.Buffer
		a := &App{ErrOut: &out}
		err := withHolders(t.Context(), c.home, api.Request{Volume: "db"}, c.err)
		if a.PrintError(t.Context(), err); out.String() != c.want || dataset.KindOf(err) != dataset.KindOf(c.err) {
			t.Errorf("%s: kind %v, %q, want %q", name, dataset.KindOf(err), out.String(), c.want)
		}
	}
	// A locked repository does not end with the containers of the volume.
	for _, kind := range []dataset.OpKind{dataset.OpBackup, dataset.OpPush, dataset.OpVerify, dataset.OpImport} {
		err := withHolders(t.Context(), home{held: held}, api.Request{Kind: kind, Volume: "db"}, inUse)
		if dataset.HoldersOf(err) != nil {
			t.Errorf("%s: the error names the holders of the volume", kind)
		}
	}
	// The home does not know who has mounted a superseded copy, which is on another node.
	req := api.Request{Kind: dataset.OpDiscard, Volume: "db"}
	err := withHolders(t.Context(), home{err: dataset.ErrUnsupported}, req, inUse)
	var elsewhere *elsewhereError
	if errors.As(err, &elsewhere) || !errors.Is(err, inUse) {
		t.Errorf("a superseded copy in use: %v", err)
	}
}

// TestHolderLines: each holder has a line, with the name of its container if the engine knows the name. Each part that
// could not be examined has a line too. If the engine does not answer, only the names are missing.
func TestHolderLines(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	container := dataset.Holder{
		Kind: dataset.HolderContainer, PID: 7, Command: "sleep", User: "root", Path: "/data", Container: id, Engine: "docker",
	}
	process := dataset.Holder{Kind: dataset.HolderProcess, PID: 8, Command: "a\x1b[2Jb", User: "root", Path: "log"}
	short := "docker container 0123456789ab at /data: process 7 (sleep, root); to free it: docker stop 0123456789ab"
	for name, c := range map[string]struct {
		held  dataset.Holders
		names func(context.Context) (map[string]string, error)
		want  []string
	}{
		"nobody": {},
		"name": {
			dataset.Holders{List: []dataset.Holder{container}, Total: 1},
			func(context.Context) (map[string]string, error) { return map[string]string{id: "web"}, nil },
			[]string{"docker container web (0123456789ab) at /data: process 7 (sleep, root); to free it: docker stop web"},
		},
		"no engine": {
			dataset.Holders{List: []dataset.Holder{container}, Total: 1},
			func(context.Context) (map[string]string, error) { return nil, errors.New("no engine") }, []string{short},
		},
		"hanging engine": {
			dataset.Holders{List: []dataset.Holder{container}, Total: 1},
			func(ctx context.Context) (map[string]string, error) { <-ctx.Done(); return nil, ctx.Err() }, []string{short},
		},
		"process": {
			dataset.Holders{List: []dataset.Holder{process}, Total: 4, Unexamined: []string{"process 9"}},
			func(context.Context) (map[string]string, error) { panic("the engine is asked for no container") },
			[]string{
				`process 8 (a\x1b[2Jb, root) has log open; to free it: end process 8`, "3 further holders are not listed",
				"not examined, and may use it: process 9",
			},
		},
	} {
		a := &App{ContainerNames: c.names}
		if got := a.HolderLines(t.Context(), c.held); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// opener is a server that opens every repository, or fails.
type opener struct {
	Remote
	id    string
	err   error
	nodes []api.Node
	away  error // why it does not answer
}

func (o opener) NodeList(context.Context, string) ([]api.Node, error) { return o.nodes, o.away }

func (o opener) CheckRepository(context.Context, api.RepositoryCheck) (api.RepositoryState, error) {
	return api.RepositoryState{ID: o.id}, o.err
}

// If the server is control, the agent of the host opens a repository. Any other failure of the server is returned, also
// if the host has no agent, or an agent of another cluster.
func TestAgentOpensRepositories(t *testing.T) {
	isControl := dataset.Errorf(dataset.ErrUnsupported, "%s: run the command on a node", api.OnlyOnHost)
	noRestic, away := dataset.Errorf(dataset.ErrUnsupported, "backups need restic"), errors.New("connection refused")
	nodes := func(ids ...byte) (list []api.Node) {
		for _, id := range ids {
			list = append(list, api.Node{Node: dataset.Node{ID: uuid.UUID{id}}})
		}
		return list
	}
	for _, c := range []struct {
		server, dial error
		agent        opener
		id           string
		want         error
	}{
		{nil, nil, opener{}, "server", nil},
		{isControl, nil, opener{nodes: nodes(2, 3)}, "agent", nil},
		{isControl, nil, opener{nodes: nodes(3)}, "server", isControl}, // of another cluster
		{isControl, nil, opener{away: away}, "server", isControl},
		{isControl, away, opener{}, "server", isControl},
		{noRestic, nil, opener{}, "server", noRestic},
	} {
		c.agent.id = "agent"
		server := opener{id: "server", err: c.server, nodes: nodes(1, 2)}
		o := onHost{server, func() (Remote, error) { return c.agent, c.dial }}
		got, err := o.CheckRepository(t.Context(), api.RepositoryCheck{})
		if got.ID != c.id || !errors.Is(err, c.want) {
			t.Errorf("%v, %v: got %s, %v", c.server, c.dial, got.ID, err)
		}
	}
}
