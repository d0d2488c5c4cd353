package selector

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
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

func TestExpressionsChooseByFacts(t *testing.T) {
	for text, want := range map[string]string{
		// An expression that matches gives no reason.
		`architecture == "x86_64" and load_10 < 40`:                "",
		`architecture == "x86_64" && load_10 <= 34`:                "",
		`load_1 < 1 or load_15 > 8`:                                "",
		`labels.rack == "r1"`:                                      "",
		`labels["a.b/c"] == "x"`:                                   "",
		`labels.rack in ["r0", "r1"]`:                              "",
		`labels.zone not in ["z1"]`:                                "",
		`labels.zone != "z1"`:                                      "",
		`"loop" in backends`:                                       "",
		`"zfs" not in backends`:                                    "",
		`pool.free > "39GiB" and pool.name == "fast"`:              "",
		`pool.free / pool.size >= 0.4`:                             "",
		`"39GiB" < pool.free`:                                      "",
		`memory_free == "16GiB"`:                                   "",
		`pool.free < memory_total`:                                 "",
		`load_1 / cpus < 0.5`:                                      "",
		`load_1 < cpus`:                                            "",
		`is_virtual`:                                               "",
		`is_virtual == true`:                                       "",
		`not (is_virtual and load_10 < 20)`:                        "",
		`!(load_10 < 20)`:                                          "",
		`kernel >= "6.8" and kernel < "6.19" and kernel != "6.18"`: "",
		`kernel > "6.18.4"`:                                        "",
		`os == "debian" and os_version >= "9"`:                     "",
		`node matches "^web[0-9]+$"`:                               "",
		`engine_version != "28.0"`:                                 "",
		`1 < load_1 < 2`:                                           "",
		`load_1 > -1`:                                              "",

		// An expression that does not match names the comparison and the actual value.
		`architecture == "x86_64" and load_10 < 20`:           "load_10 is 34, not < 20",
		`architecture == "aarch64" and load_10 < 20`:          `architecture is "x86_64", not == "aarch64"`,
		`load_1 > 4 or load_15 > 9`:                           "load_1 is 1.5, not > 4, and load_15 is 8.13, not > 9",
		`not (load_10 > 20)`:                                  "load_10 is 34, which is > 20",
		`not (load_10 > 20 and is_virtual)`:                   "load_10 is 34, which is > 20, and is_virtual is true",
		`not (load_10 > 20 or is_virtual)`:                    "load_10 is 34, which is > 20",
		`not is_virtual`:                                      "is_virtual is true",
		`is_virtual == false`:                                 "is_virtual is true, not == false",
		`labels.zone == "z1"`:                                 `labels.zone is not set, not == "z1"`,
		`labels.rack in ["r2", "r3"]`:                         `labels.rack is "r1", not in ["r2", "r3"]`,
		`labels.rack not in ["r1"]`:                           `labels.rack is "r1", which is in ["r1"]`,
		`"zfs" in backends`:                                   "backends is dir, loop, not with zfs",
		`not ("loop" in backends)`:                            "backends is dir, loop, with loop",
		`pool.free > "50GiB"`:                                 "pool.free is 40GiB, not > 50GiB",
		`50 < load_10`:                                        "load_10 is 34, not > 50",
		`load_10 < cpus`:                                      "load_10 is 34, not < cpus (4)",
		`load_10 / cpus < 2 * 1`:                              "load_10 / cpus is 8.5, not < 2 * 1",
		`kernel >= "6.19"`:                                    `kernel is 6.18.44-fc, not >= "6.19"`,
		`engine_version >= "28"`:                              `engine_version is unknown, not >= "28"`,
		`node matches "^db"`:                                  `node is "web1", which does not match ^db`,
		`not (node matches "^web")`:                           `node is "web1", which matches ^web`,
		`2 < load_1 < 3`:                                      "load_1 is 1.5, not > 2",
		`architecture != "x86_64" or labels.rack == "r2"`:     `architecture is "x86_64", not != "x86_64", and labels.rack is "r1", not == "r2"`,
		`(load_1 < 1 or load_1 > 9) and labels.none == "one"`: "load_1 is 1.5, not < 1, and load_1 is 1.5, not > 9",
	} {
		e, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := e.Mismatch(env()); got != want {
			t.Errorf("%s:\n%q, want\n%q", text, got, want)
		}
	}
}

func TestAShareOfNothingComparesWithNothing(t *testing.T) {
	e, err := Parse(`pool.free / pool.size <= 1`)
	if err != nil {
		t.Fatal(err)
	}
	if e.Mismatch(Env{}) == "" {
		t.Error("0/0 is taken for less than 1")
	}
}

func TestWhatIsNoExpressionIsRefusedWithItsPlace(t *testing.T) {
	have := strings.Join(Names(), ", ")
	for text, want := range map[string]string{
		"":                           "the expression is empty (at character 1)",
		"  ":                         "the expression is empty (at character 1)",
		`architectur == "x86_64"`:    `unknown fact "architectur", did you mean architecture? (available: ` + have + `) (at character 1)`,
		`load_1 < 3 and load10 < 20`: `unknown fact "load10", did you mean load_10? (available: ` + have + `) (at character 16)`,
		`free > "1GiB"`:              `unknown fact "free", did you mean pool.free? (available: ` + have + `) (at character 1)`,
		`pool.fre > "1GiB"`:          `unknown fact "pool.fre", did you mean pool.free? (available: ` + have + `) (at character 1)`,
		`colour == "red"`:            `unknown fact "colour" (available: ` + have + `) (at character 1)`,
		`load_10 <`:                  `it cannot be read: unexpected token EOF (at character 9)`,
		`load_10 < 20 and`:           `it cannot be read: unexpected token EOF (at character 16)`,
		`load_10 = 20`:               "use == for a comparison, not = (at character 9)",
		`load_10 < "20"`:             `load_10 is a number and cannot be compared with "20", which is a text in quotes (at character 11)`,
		`architecture == 64`:         `architecture is a text and cannot be compared with 64, which is a number (at character 17)`,
		`architecture < "x"`:         "architecture is a text and cannot be compared with < (available: ==, !=, in, matches) (at character 14)",
		`is_virtual < true`:          `is_virtual is true or false and cannot be compared with < (available: ==, !=) (at character 12)`,
		`is_virtual == "yes"`:        `is_virtual is true or false and cannot be compared with "yes", which is a text in quotes (at character 15)`,
		`pool.free > 5`:              `pool.free is a size in quotes: bad size "5": a bare number is ambiguous (use 5GiB for gibibytes or 5B for bytes) (at character 13)`,
		`pool.free > "much"`:         `pool.free is a size in quotes: bad size "much": expected a number and a unit, such as 20GiB, 512M or 100GB (at character 13)`,
		`pool.free > load_1`:         `pool.free is a size and cannot be compared with load_1, which is a number (at character 13)`,
		`kernel > "new"`: "kernel is a version: expected numbers, such as \"6.1\", not \"new\" " +
			"(at character 10)",
		`kernel > 6.1`:                     `kernel is a version and cannot be compared with 6.1, which is a number (at character 10)`,
		`backends == "loop"`:               `backends is a list and cannot be compared with == (use "loop" in backends) (at character 10)`,
		`1 < 2`:                            `1 and 2 are the same everywhere: compare a fact (at character 1)`,
		`load_10`:                          "load_10 is a number: compare it with a value (at character 1)",
		`labels == "x"`:                    `unknown fact "labels"`,
		`labels[".x"] == "x"`:              `bad label key ".x"`,
		`labels.a.b == "x"`:                "expected a fact (available: ",
		`node in []`:                       "the list is empty (at character 9)",
		`node in [1]`:                      "expected texts in quotes between the brackets (at character 10)",
		`node in "web1"`:                   `expected "a text" in backends, or a fact in ["one", "other"], not node in "web1" (at character 6)`,
		`load_1 in ["1"]`:                  "load_1 cannot be searched in a list: expected a fact that is a text (at character 1)",
		`node matches "("`:                 `error parsing regexp: missing closing ): ` + "`(`" + ` (at character 14)`,
		`node matches node`:                "expected a fact that is a text, and an expression in quotes",
		`len(backends) > 1`:                "expected a fact, a number or a text in quotes",
		`all(backends, # == "loop")`:       "expected comparisons of facts",
		`let x = 1; load_1 < x`:            "expected comparisons of facts",
		`load_1 < 3 ? is_virtual : true`:   "expected comparisons of facts",
		`true`:                             "expected comparisons of facts",
		`load_1 < 2 ** 9`:                  "cannot compute with ** (available: +, -, *, /)",
		`load_1 + pool.free < 3`:           "cannot compute load_1 + pool.free: expected numbers, or a size / a size (at character 8)",
		`node == env["HOME"]`:              `unknown fact "env.HOME"`,
		`load_1 < 3; load_1 < 4`:           "expected comparisons of facts",
		`node?.x == "y"`:                   "expected a fact",
		strings.Repeat("(", 2000):          `an expression of 2000 bytes is too long (1024 at most) (at character 1)`,
		strings.Repeat("(", 1000):          `it cannot be read`,
		strings.Repeat("not ", 200) + "x":  `unknown fact "x"`,
		`is_virtual == -true`:              "expected a fact, a number or a text",
		`"a" in "b"`:                       `expected "a text" in backends`,
		`node == "web1" | upper()`:         "expected comparisons of facts",
		`node in ["a"] in backends`:        `cannot compute with in`,
		`pool.free + pool.size > "100GiB"`: `cannot compute pool.free + pool.size`,
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s:\n%v, want\n%s", text, err, want)
			continue
		}
		if !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%.60s: the error is of kind %v", text, dataset.KindOf(err))
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
