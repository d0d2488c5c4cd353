package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// T is the part of *testing.T that the suite uses. A command that runs the suite implements it as well,
// because shipped programs do not import package testing.
type T interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	FailNow()
	Cleanup(func())
	TempDir() string
	Context() context.Context
}

// Checks has the assertions. Each fails the test if a result is wrong.
type Checks struct {
	T
	Ctx context.Context
}

// OK fails the test at once if err is not nil.
func (f *Checks) OK(err error) {
	f.Helper()
	require.NoError(f, err)
}

// Same fails unless two values are deeply equal. The failure shows both as JSON.
func (f *Checks) Same(what string, have, want any) {
	f.Helper()
	if reflect.DeepEqual(have, want) {
		return
	}
	one, err := json.Marshal(have)
	two, wErr := json.Marshal(want)
	f.OK(errors.Join(err, wErr))
	f.Errorf("%s: have %s (%T), want %s", what, one, have, two)
}

// Twice calls a function twice. It fails unless both calls succeed.
func (f *Checks) Twice(call func() error) {
	f.Helper()
	f.OK(call())
	require.NoErrorf(f, call(), "again")
}

// CheckFails fails the test unless err has one of the kinds and is a single line.
func (f *Checks) CheckFails(err error, kinds ...*dataset.Kind) {
	f.Helper()
	if err == nil {
		f.Fatalf("succeeded, want a %s error", kinds[0].Code)
	}
	for _, k := range kinds {
		if errors.Is(err, k) {
			if strings.ContainsAny(err.Error(), "\n\r") {
				f.Errorf("several lines: %q", err)
			}
			return
		}
	}
	f.Fatalf("got %v (kind %s), want a %s error", err, dataset.KindOf(err).Code, kinds[0].Code)
}

// CheckFile fails unless the file at path has the content want.
func (f *Checks) CheckFile(path, want string) {
	f.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		f.Errorf("%s contains %q, %v", path, b, err)
	}
}

// Names returns the names in a directory.
func (f *Checks) Names(dir string) []string {
	f.Helper()
	entries, err := os.ReadDir(dir)
	f.OK(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
