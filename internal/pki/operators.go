package pki

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/internal/durable"
)

// operatorsFile lists the operators to whom the authority of a folder has issued certificates, one name a line. The
// list only helps to detect a mistyped name. A certificate is valid whether or not the list contains its name.
const operatorsFile = "operators"

// NoteOperator adds a name to the list of operators of the authority in a folder. Idempotent. Safe for concurrent use,
// also by several processes. It fails with ErrInUse if another process changes the folder for longer than lockWait.
func NoteOperator(dir, name string) (err error) {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	names, err := Operators(dir)
	if err != nil || slices.Contains(names, name) {
		return err
	}
	names = append(names, name)
	slices.Sort(names)
	return durable.Replace(filepath.Join(dir, operatorsFile), []byte(strings.Join(names, "\n")+"\n"))
}

// Operators returns the names of the operators to whom the authority in a folder has issued certificates, sorted. It
// returns no names if the folder has no list, or if the caller may not read it.
func Operators(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, operatorsFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return strings.Fields(string(b)), err
}
