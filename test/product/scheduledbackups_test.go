package product_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/host"
)

// TestScheduledBackups: a volume in use is backed up every minute, without a command. Of the scheduled backups, only
// the newest stays, and a backup that was made by hand stays too. The schedule continues after a crash.
func TestScheduledBackups(t *testing.T) {
	long.Only(t) // four minutes, most of which pass between the backups
	h := host.Start(t, host.Options{Size: 2 << 30, Profiles: `default: plain
profiles:
  plain: {}
  minutely: {backup: {to: offsite, schedule: "* * * * *", keep: {last: 1}}}
`})
	at, secret := filepath.Join(h.Dir, "repository"), filepath.Join(h.Dir, "password")
	writePassword(t, secret, "correct horse battery staple")
	h.Must(t, "repository", "add", "offsite", at, "--password", "file:"+secret, "--store-records=false")
	plug := h.Plug(t)
	if err := plug.Create("db@minutely", nil); err != nil {
		t.Fatal(err)
	}
	root, err := plug.Mount("db@minutely", "user")
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(root, "file"), []byte("content"))
	h.Must(t, "backup", "create", "db")
	backups := func() []string { // incomplete while a backup is removed
		return strings.Fields(h.Exec(t, "backup", "ls", "db", "-q").Out)
	}
	manual := backups()
	if len(manual) != 1 {
		t.Fatalf("got the backups %v, want that made by hand", manual)
	}
	var last time.Time
	for i := range 3 {
		awaitLong(t, fmt.Sprint("scheduled backup ", i), func() error {
			var v api.Volume
			h.JSON(t, &v, "volume", "inspect", "db")
			if v.Backups == nil || !v.Backups.Last.After(last) || v.Backups.Failures != 0 {
				return fmt.Errorf("the state is %+v", v.Backups)
			}
			last = v.Backups.Last
			return nil
		})
		if i == 1 {
			h.Restart(t)
		}
	}
	awaitLong(t, "the removal of the former ones", func() error {
		if got := backups(); len(got) != 2 || !slices.Contains(got, manual[0]) {
			return fmt.Errorf("the backups are %v", got)
		}
		return nil
	})
	if out := h.Must(t, "volume", "inspect", "db"); !strings.Contains(out, "to offsite, at * * * * *") {
		t.Errorf("inspect shows no schedule:\n%s", out)
	}
}

// awaitLong calls f every few seconds, for at most five minutes, until it returns nil. Something that lists the backups
// all the time would prevent their removal.
func awaitLong(t *testing.T, what string, f func() error) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(3 * time.Second) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
