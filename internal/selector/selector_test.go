package selector

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/golden"
	"github.com/droverhq/drover/test/require"
)

func env() Env {
	return Env{
		Node: dataset.Node{Name: "web1", Labels: map[string]string{"rack": "r1", "a.b/c": "x"}},
		Facts: dataset.Facts{
			Architecture: "x86_64", Kernel: "6.18.44-fc", OS: "debian", OSVersion: "12", CPUs: 4, Virtual: true,
			Load1: 1.5, Load10: 34, Load15: 8.126, MemoryTotal: 64 << 30, MemoryFree: 16 << 30,
			Backends: []string{"dir", "loop"},
		},
		Pool: dataset.PoolFacts{Name: "fast", Backend: "loop", Size: 100 << 30, Free: 40 << 30},
	}
}

// An expression that does not match names the comparison and the actual value.
func TestExpressionsChooseByFacts(t *testing.T) {
	golden.Table(t, "testdata/matches.txt", func(t *testing.T, c golden.Case) []string {
		e, err := Parse(c.Name)
		require.NoErrorf(t, err, "%s", c.Name)
		if why := e.Mismatch(env()); why != "" {
			return []string{why}
		}
		return nil
	})
}

func TestAShareOfNothingComparesWithNothing(t *testing.T) {
	e, err := Parse(`pool.free / pool.size <= 1`)
	require.NoError(t, err)
	if e.Mismatch(Env{}) == "" {
		t.Error("0/0 is taken for less than 1")
	}
}

func TestWhatIsNoExpressionIsRefusedWithItsPlace(t *testing.T) {
	refuse := func(text string) string {
		_, err := Parse(text)
		if !errors.Is(err, dataset.ErrInvalid) {
			t.Fatalf("%.60s: got %v of kind %v", text, err, dataset.KindOf(err))
		}
		return err.Error()
	}
	golden.Table(t, "testdata/refused.txt", func(_ *testing.T, c golden.Case) []string { return []string{refuse(c.Name)} })
	for text, want := range map[string]string{
		"":                                "the expression is empty (at character 1)",
		"  ":                              "the expression is empty (at character 1)",
		strings.Repeat("(", 2000):         "an expression of 2000 bytes is too long (1024 at most) (at character 1)",
		strings.Repeat("(", 1000):         "it cannot be read",
		strings.Repeat("not ", 200) + "x": `unknown fact "x"`,
	} {
		if got := refuse(text); !strings.Contains(got, want) {
			t.Errorf("%.60s:\n%v, want\n%s", text, got, want)
		}
	}
}

func TestOfPoolIsSaid(t *testing.T) {
	for text, want := range map[string]bool{`pool.free > "1GiB" or is_virtual`: true, `load_1 < 3`: false} {
		if e, err := Parse(text); err != nil || e.OfPool() != want || e.String() != text {
			t.Errorf("%s: %v %v", text, e.OfPool(), err)
		}
	}
	if why := (Expr{}).Mismatch(env()); why != "" {
		t.Errorf("no expression: %s", why)
	}
}

// Every text is either parsed, or refused with a place in the text. A parsed expression and its negation never both
// match.
func TestAnyTextIsReadOrRefused(t *testing.T) {
	words := append(Names(), `"r1"`, `"1GiB"`, "7", "0.5", "==", "!=", "<", "<=", ">", ">=", "and", "or", "not", "in",
		"matches", "(", ")", "[", "]", ",", "true", "-", "*", "/", "labels.rack", "?", ":", ";", "|", "#", "let",
		"filter")
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 0, 14).Draw(t, "words"), " ")
		if rapid.Bool().Draw(t, "raw") {
			text = rapid.String().Draw(t, "text")
		}
		e, err := Parse(text)
		var m *Mistake
		if err != nil {
			if !errors.As(err, &m) || m.At < 0 || m.At > len([]rune(text)) {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		not, err := Parse("not (" + text + ")")
		if err != nil {
			return // the maximum length is reached
		}
		if (e.Mismatch(env()) == "") == (not.Mismatch(env()) == "") {
			t.Fatalf("%q and its contradiction: %q, %q", text, e.Mismatch(env()), not.Mismatch(env()))
		}
	})
}
