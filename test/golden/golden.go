// Package golden keeps what tests compare in files beside the tests. Tests call it. With the flag -update, it writes
// the files anew.
package golden

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/test/require"
)

// Update is the flag -update: the files are written, not compared.
var Update = flag.Bool("update", false, "write the golden files anew")

// Check compares a file with what it should contain.
func Check(t testing.TB, file, want string) {
	t.Helper()
	if *Update {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644))
	}
	if d := cmp.Diff(read(t, file), want); d != "" {
		t.Errorf("%s differs (the flag -update writes it anew):\n%s", file, d)
	}
}

// Case is an input, with the results that are expected of it.
type Case struct {
	Name, Input string
	Want        []string
}

// Cases reads a file of cases. A case begins with a line "== NAME". The lines after it are the input, and each line
// "=> RESULT" is a result. Lines before the first case are a comment.
func Cases(t testing.TB, file string) (list []Case) {
	t.Helper()
	for line := range strings.Lines(read(t, file)) {
		name, begins := strings.CutPrefix(line, "== ")
		result, isResult := strings.CutPrefix(line, "=> ")
		switch last := len(list) - 1; {
		case begins:
			list = append(list, Case{Name: strings.TrimSpace(name)})
		case last < 0:
		case isResult:
			list[last].Want = append(list[last].Want, strings.TrimSuffix(result, "\n"))
		default:
			list[last].Input += line
		}
	}
	if len(list) == 0 {
		t.Fatalf("%s has no case", file)
	}
	return list
}

// Table compares the results of each case of a file with what the function returns for its input.
func Table(t *testing.T, file string, results func(t *testing.T, c Case) []string) {
	t.Helper()
	b := strings.Builder{}
	comment, _, _ := strings.Cut(read(t, file), "== ")
	b.WriteString(comment)
	for _, c := range Cases(t, file) {
		b.WriteString("== " + c.Name + "\n" + c.Input)
		for _, r := range results(t, c) {
			b.WriteString("=> " + r + "\n")
		}
	}
	Check(t, file, b.String())
}

func read(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !*Update {
		t.Fatal(err)
	}
	return string(b)
}
