package witness_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/require"
)

// wrote is an entry of dataset d.
func wrote(writer string, epoch uint64, seq int, begin, end int64, err ...string) witness.Entry {
	return witness.Entry{
		Token:   witness.Token{Writer: writer, Epoch: epoch, Seq: seq},
		Dataset: "d", Node: "host-" + writer, Begin: begin, End: end, Err: strings.Join(err, ""),
	}
}

// copyOf returns the tokens of entries.
func copyOf(name string, entries ...witness.Entry) witness.Copy {
	c := witness.Copy{Dataset: "d", Name: name, Tokens: map[witness.Token]bool{}}
	for _, e := range entries {
		c.Tokens[e.Token] = true
	}
	return c
}

func TestCheck(t *testing.T) {
	a1, a2, b1 := wrote("a", 1, 1, 10, 20), wrote("a", 1, 2, 30, 40), wrote("b", 2, 1, 50, 60)
	late, failed := wrote("a", 1, 3, 45, 51), wrote("a", 1, 3, 45, 99, "input/output error")
	head, aside := copyOf("head", a1, a2, b1), copyOf("superseded", a1, a2)
	for name, tt := range map[string]struct {
		entries []witness.Entry
		copies  []witness.Copy
		losses  []witness.Loss
		want    []string // what each violation contains
	}{
		"nothing was written":       {},
		"all is there":              {entries: []witness.Entry{b1, a1, a2}, copies: []witness.Copy{head}},
		"some is aside":             {entries: []witness.Entry{a1, a2, b1}, copies: []witness.Copy{copyOf("head", a1, b1), aside}},
		"the epochs overlap by one": {[]witness.Entry{a1, a2, b1, late}, []witness.Copy{head, copyOf("superseded", late)}, nil, []string{`two epochs at once: "a 1 3" on host-a ended 1 ns after "b 2 1" on host-b had begun`}},
		"two nodes write under one epoch": {
			[]witness.Entry{a1, a2, wrote("c", 1, 1, 50, 60)}, []witness.Copy{copyOf("head", a1, a2, wrote("c", 1, 1, 0, 0))}, nil,
			[]string{`two nodes in one epoch: "a 1 1" on host-a and "c 1 1" on host-c`},
		},
		"one ends as the next begins": {
			entries: []witness.Entry{a1, wrote("a", 1, 2, 30, 50), b1}, copies: []witness.Copy{head},
		},
		"not only the next epoch counts": {
			[]witness.Entry{a1, wrote("c", 7, 1, 15, 16)}, []witness.Copy{copyOf("head", a1, wrote("c", 7, 1, 0, 0))}, nil, []string{"two epochs at once"},
		},
		"a fenced write may end late, and be there": {entries: []witness.Entry{a1, a2, b1, failed}, copies: []witness.Copy{head, copyOf("superseded", failed)}},
		"a fenced write may end late, and be gone":  {entries: []witness.Entry{a1, a2, b1, failed}, copies: []witness.Copy{head}},
		"a flushed write is nowhere": {
			[]witness.Entry{a1, a2, b1}, []witness.Copy{copyOf("head", a1, b1), copyOf("old", a1)}, nil,
			[]string{`1 writes that were flushed are lost, from "a 1 2" on host-a to "a 1 2" on host-a; looked in ["head (2 tokens)" "old (1 tokens)"]`},
		},
		"a loss was announced": {
			entries: []witness.Entry{a1, a2, b1}, copies: []witness.Copy{copyOf("head", a1, b1)}, losses: []witness.Loss{{"d", 1, 39}},
		},
		"more was lost than announced": {
			[]witness.Entry{a1, a2, b1}, []witness.Copy{copyOf("head", b1)}, []witness.Loss{{"d", 1, 39}}, []string{`from "a 1 1" on host-a to "a 1 1"`},
		},
		"the loss is another dataset's": {
			[]witness.Entry{a1, b1}, []witness.Copy{copyOf("head", b1)}, []witness.Loss{{"e", 1, 0}}, []string{"are lost"},
		},
		"the loss was of an older epoch": {
			[]witness.Entry{a1, b1}, []witness.Copy{copyOf("head", a1)}, []witness.Loss{{"d", 1, 0}}, []string{`from "b 2 1"`},
		},
		"the copy is another dataset's": {
			[]witness.Entry{a1}, []witness.Copy{{Dataset: "e", Name: "head", Tokens: map[witness.Token]bool{}}}, nil, []string{"are lost"},
		},
		"one more than was noted": {entries: []witness.Entry{a1}, copies: []witness.Copy{copyOf("head", a1, a2)}},
		"what nobody wrote": {
			[]witness.Entry{a1}, []witness.Copy{copyOf("head", a1, wrote("a", 1, 3, 0, 0))}, nil, []string{`head has "a 1 3", which nobody wrote`},
		},
		"a writer nobody knows": {nil, []witness.Copy{copyOf("head", wrote("x", 1, 2, 0, 0))}, nil, []string{"nobody wrote"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := witness.Check(tt.entries, tt.copies, tt.losses)
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %d violations", got, len(tt.want))
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %q, want %q", got[i], want)
				}
			}
		})
	}
}

// truth is a run without faults: epochs one after the other, each with some writers.
func truth(t *rapid.T) (entries []witness.Entry) {
	now := int64(0)
	for epoch := range rapid.IntRange(1, 4).Draw(t, "epochs") {
		start, end := now+1, now
		for w := range rapid.IntRange(1, 3).Draw(t, "writers") {
			at := start
			for seq := range rapid.IntRange(1, 5).Draw(t, "writes") {
				e := wrote(fmt.Sprint("w", epoch, w), uint64(epoch+1), seq+1, at, at+rapid.Int64Range(0, 9).Draw(t, "took"))
				e.Node = fmt.Sprint("host", epoch)
				entries = append(entries, e)
				at = e.End + rapid.Int64Range(0, 9).Draw(t, "pause")
				end = max(end, e.End)
			}
		}
		now = end
	}
	return rapid.Permutation(entries).Draw(t, "order")
}

// A write under the previous epoch may follow a write under an epoch that replaced it (Raised), but only on that node
// and for that dataset.
func TestCheckRaised(t *testing.T) {
	before, late := wrote("a", 1, 1, 10, 20), wrote("a", 1, 2, 50, 60)
	after := wrote("b", 2, 1, 30, 40)
	after.Node = before.Node
	for _, tt := range []struct {
		raised witness.Raised
		well   bool
	}{
		{witness.Raised{Dataset: "d", Epoch: 2, Node: "host-a"}, true},
		{witness.Raised{Dataset: "d", Epoch: 2, Node: "host-b"}, false},
		{witness.Raised{Dataset: "d", Epoch: 3, Node: "host-a"}, false},
		{witness.Raised{Dataset: "e", Epoch: 2, Node: "host-a"}, false},
	} {
		bad := witness.Check([]witness.Entry{before, late, after}, []witness.Copy{copyOf("head", before, late, after)}, nil, tt.raised)
		if (len(bad) == 0) != tt.well {
			t.Errorf("%+v: %q", tt.raised, bad)
		}
	}
}

// A run without faults passes, whatever tokens are on which copies. With one token missing it fails, unless that loss
// was announced. With one write that ended too late it fails as well.
func TestCheckOfTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := truth(t)
		copies := []witness.Copy{copyOf("head"), copyOf("aside")}
		for _, e := range entries {
			copies[rapid.IntRange(0, 1).Draw(t, "where")].Tokens[e.Token] = true
		}
		if bad := witness.Check(entries, copies, nil); len(bad) > 0 {
			t.Fatal(bad)
		}
		i := rapid.IntRange(0, len(entries)-1).Draw(t, "which")
		e := entries[i]
		for _, c := range copies {
			delete(c.Tokens, e.Token)
		}
		if bad := witness.Check(entries, copies, nil); len(bad) != 1 || !strings.Contains(bad[0], fmt.Sprintf("%q", e.Token)) {
			t.Fatalf("without %v: %q", e, bad)
		}
		if bad := witness.Check(entries, copies, []witness.Loss{{Dataset: "d", Epoch: e.Epoch, After: e.End - 1}}); len(bad) > 0 {
			t.Fatalf("announced, and still %q", bad)
		}
		if bad := witness.Check(entries, copies, []witness.Loss{{Dataset: "d", Epoch: e.Epoch, After: e.End}}); len(bad) != 1 {
			t.Fatalf("a loss of what came later covers it: %q", bad)
		}
		copies[0].Tokens[e.Token] = true
		newer, alone := false, true
		for _, other := range entries {
			newer = newer || other.Epoch > e.Epoch
			alone = alone && (other.Token == e.Token || other.Epoch != e.Epoch)
		}
		entries[i].Node = "elsewhere"
		if bad := witness.Check(entries, copies, nil); (len(bad) == 0) != alone {
			t.Fatalf("written elsewhere, alone in its epoch %t: %q", alone, bad)
		}
		entries[i].Node = e.Node
		entries[i].End = 1 << 40
		if bad := witness.Check(entries, copies, nil); (len(bad) > 0) != newer {
			t.Fatalf("ends too late, a newer epoch there %t: %q", newer, bad)
		}
	})
}

func TestRead(t *testing.T) {
	c, err := witness.Read("d", "head", strings.NewReader("w 1 1\nw 1 2\n\nw 1\nw 1 3 \nw 1 03\nw 1 4"))
	require.NoError(t, err)
	want := map[witness.Token]bool{{Writer: "w", Epoch: 1, Seq: 1}: true, {Writer: "w", Epoch: 1, Seq: 2}: true, {Writer: "w", Epoch: 1, Seq: 4}: true}
	if diff := cmp.Diff(want, c.Tokens); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"w 1", "w 1 3 ", "w 1 03"}, c.BadLines); diff != "" {
		t.Error(diff)
	}
	none, err := witness.ReadFile("d", "head", filepath.Join(t.TempDir(), "none"))
	if err != nil || len(none.Tokens) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}

func TestLogs(t *testing.T) {
	dir := t.TempDir()
	text := `{"writer":"w","epoch":1,"seq":1,"dataset":"d","node":"a","begin":1,"end":2}` + "\n" + `{"writer":"w","epo`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.log"), []byte(text), 0o600))
	got, err := witness.Logs(filepath.Join(dir, "*.log"))
	want := []witness.Entry{{Token: witness.Token{Writer: "w", Epoch: 1, Seq: 1}, Dataset: "d", Node: "a", Begin: 1, End: 2}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := witness.Logs(filepath.Join(dir, "*.none")); err == nil {
		t.Error("no log at all is taken for one without writes")
	}
}
