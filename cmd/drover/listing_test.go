package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestListCommandsHaveTheSameFlags walks the command tree. Every list has the flags of package listing.
func TestListCommandsHaveTheSameFlags(t *testing.T) {
	noLabels := []string{"drover backup ls", "drover profile ls", "drover guard ls", "drover repository ls", "drover ca ls", "drover repository versions"} // their items have none
	lists := 0
	for _, cmd := range leaves(newRootCmd(newConsole(theWorld()).App)) {
		if cmd.Name() != "ls" && cmd.Name() != "versions" {
			continue
		}
		lists++
		path := cmd.CommandPath()
		for flag, short := range map[string]string{"filter": "", "sort": "", "output": "o", "quiet": "q", "label": "l"} {
			f := cmd.Flags().Lookup(flag)
			if flag == "label" && slices.Contains(noLabels, path) {
				if f != nil {
					t.Errorf("%s has --label", path)
				}
				continue
			}
			if f == nil || f.Shorthand != short {
				t.Errorf("%s has no --%s (-%s): make it with listing.New", path, flag, short)
			}
		}
		if !strings.Contains(cmd.Flags().Lookup("output").Value.Type(), "template") {
			t.Errorf("%s has other formats", path)
		}
	}
	if lists < 9 {
		t.Errorf("found only %d lists", lists)
	}
}

// TestColumnsAreNamesInTemplates: in each ls command, each column of -o wide is a name in a template. A table of all
// columns has the headers of -o wide.
func TestColumnsAreNamesInTemplates(t *testing.T) {
	for _, cmd := range leaves(newRootCmd(newConsole(theWorld()).App)) {
		if cmd.Name() != "ls" {
			continue
		}
		args := strings.Fields(strings.TrimPrefix(cmd.CommandPath(), "drover "))
		c := newConsole(theWorld())
		c.run(t, append(slices.Clone(args), "-o", "template={{.NoSuchThing}}")...)
		_, list, _ := strings.Cut(c.err.String(), "(available: ")
		list, _, _ = strings.Cut(list, ")")
		var columns []string
		for name := range strings.SplitSeq(list, ", ") {
			if strings.ToLower(name) != name {
				columns = append(columns, "{{."+name+"}}")
			}
		}
		c = newConsole(theWorld())
		if code := c.run(t, append(slices.Clone(args), "-o", `template=table `+strings.Join(columns, `\t`))...); code != 0 {
			t.Errorf("%v: %s", args, c.err.String())
		}
		got, _, _ := strings.Cut(c.out.String(), "\n")
		c = newConsole(theWorld())
		c.run(t, append(slices.Clone(args), "-o", "wide")...)
		want, _, _ := strings.Cut(c.out.String(), "\n")
		x, y := strings.Fields(got), strings.Fields(want)
		slices.Sort(x)
		slices.Sort(y)
		if len(columns) < 3 || !slices.Equal(x, y) {
			t.Errorf("%v: headers %q, want %q", args, got, want)
		}
	}
}

// TestListCommandsSortAndFilter runs each ls command with each of its columns as a key, and in each format.
func TestListCommandsSortAndFilter(t *testing.T) {
	for _, cmd := range leaves(newRootCmd(newConsole(theWorld()).App)) {
		if cmd.Name() != "ls" {
			continue
		}
		args := strings.Fields(strings.TrimPrefix(cmd.CommandPath(), "drover "))
		runs := func(flags ...string) string {
			t.Helper()
			c := newConsole(theWorld())
			c.fake.volumes[0] = movingVolume()
			c.fake.volumes[0].CopyDetails = append(c.fake.volumes[0].CopyDetails,
				copiesOn(dataset.Copy{Dataset: idDB, Kind: dataset.CopyReplica, Snapshot: snapID(1), Taken: now, Problem: "slow"}, "host-b")...)
			if code := c.run(t, append(slices.Clone(args), flags...)...); code != 0 {
				t.Errorf("%v %v: %s", args, flags, c.err.String())
			}
			return c.out.String()
		}
		all := runs("-q")
		if all == "" {
			t.Errorf("%v is empty", args)
		}
		header, _, _ := strings.Cut(runs("-o", "wide"), "\n")
		columns := strings.FieldsFunc(strings.ReplaceAll(header, "   ", "\t"), func(r rune) bool { return r == '\t' })
		for _, column := range columns {
			key := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(column)), " ", "_")
			if got := runs("-q", "--filter", key+"=*", "--sort", key); len(got) != len(all) {
				t.Errorf("%v --sort %s: %q", args, key, got)
			}
			if got := runs("-q", "--filter", key+"!=*"); got != "" {
				t.Errorf("%v --filter %s!=*: %q", args, key, got)
			}
		}
		for _, format := range []string{"json", "yaml", "name", "template=x"} {
			if runs("-o", format) == "" {
				t.Errorf("%v -o %s prints nothing", args, format)
			}
		}
	}
}

// TestListsNameALostStore: each list of what the store has says that it can lack items, and names the next command.
func TestListsNameALostStore(t *testing.T) {
	local := []string{"drover profile ls", "drover guard ls"} // not from the store
	for _, cmd := range leaves(newRootCmd(newConsole(theWorld()).App)) {
		if cmd.Name() != "ls" {
			continue
		}
		c := newConsole(&fake{health: api.ClusterHealth{Store: api.StoreHealth{Halted: "store inconsistent; changes suspended: it was lost (drover store rebuild)"}}})
		if code := c.run(t, strings.Fields(strings.TrimPrefix(cmd.CommandPath(), "drover "))...); code != 0 {
			t.Errorf("%s: %d %s", cmd.CommandPath(), code, c.err.String())
		}
		want := "drover: this list may lack items: store inconsistent; changes suspended: it was lost (drover store rebuild)\n"
		if slices.Contains(local, cmd.CommandPath()) {
			want = ""
		}
		if got := c.err.String(); got != want {
			t.Errorf("%s: %q, want %q", cmd.CommandPath(), got, want)
		}
	}
}

// TestFilterWithTypingError: a filter that matches nothing names the value that was probably meant.
func TestFilterWithTypingError(t *testing.T) {
	for filter, want := range map[string]string{
		"profile=glod":  `drover: nothing has profile "glod"; did you mean gold?` + "\n",
		"profile=*glod": "",
		"profile!=gold": "",
		"profile=zinc":  `drover: nothing has profile "zinc" (present: bronze, gold)` + "\n",
		"status=*usag*": "", // the names of the fields of status, such as usage, are no values
		"status!=used":  "",
	} {
		c := newConsole(theWorld())
		if code := c.run(t, "volume", "ls", "-q", "--filter", filter); code != 0 || c.err.String() != want {
			t.Errorf("%s: exit %d, %q, want %q", filter, code, c.err.String(), want)
		}
		if matches := c.out.String() != ""; matches != strings.Contains(filter, "!=") {
			t.Errorf("%s matches %q", filter, c.out.String())
		}
	}
}

// TestFilterByNameWithoutVolumes: the list is empty without a note if the node, pool or profile exists and has no
// volumes.
func TestFilterByNameWithoutVolumes(t *testing.T) {
	w := theWorld()
	idle, unused := w.nodes[0], w.profiles[0]
	idle.ID[15]++
	idle.Name, unused.Name = "host-b", "golf"
	w.nodes, w.profiles = append(w.nodes, idle), append(w.profiles, unused)
	for filter, want := range map[string]string{
		"node=host-b":  "",
		"node=HOST-B":  "",
		"pool=plain":   "",
		"profile=golf": "",
		"node=host-c":  `drover: nothing has node "host-c"; did you mean host-a?` + "\n",
		"pool=plane":   `drover: nothing has pool "plane" (present: default)` + "\n",
	} {
		c := newConsole(w)
		if code := c.run(t, "volume", "ls", "-q", "--filter", filter); code != 0 || c.err.String() != want ||
			c.out.String() != "" {
			t.Errorf("%s: exit %d, %q, %q, want %q", filter, code, c.out.String(), c.err.String(), want)
		}
	}
}

// TestInspectTemplatePrintsColumns: in a template, a field that is an object is the column of the list, and its fields
// and the other fields are those of -o json.
func TestInspectTemplatePrintsColumns(t *testing.T) {
	for _, text := range []string{"{{.Status}}", "{{.Profile}}", "{{.Status | upper}}"} {
		inspect, ls := newConsole(theWorld()), newConsole(theWorld())
		if code := inspect.run(t, "volume", "inspect", "db", "-o", "template="+text); code != 0 {
			t.Errorf("%s: exit %d, %s", text, code, inspect.err.String())
		}
		if code := ls.run(t, "volume", "ls", "--filter", "name=db", "-o", "template="+text); code != 0 {
			t.Errorf("%s: exit %d, %s", text, code, ls.err.String())
		}
		if got, want := inspect.out.String(), ls.out.String(); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	c := newConsole(theWorld())
	const text = "{{.Name}} {{.Size}} {{.status.mounted}} {{.Profile.Name}}"
	code := c.run(t, "volume", "inspect", "db", "-o", "template="+text)
	if want := "db 21474836480 true gold\n"; code != 0 || c.out.String() != want {
		t.Errorf("exit %d, %q, want %q: %s", code, c.out.String(), want, c.err.String())
	}
	c = newConsole(theWorld())
	code = c.run(t, "volume", "inspect", "db", "-o", "template={{.Status}}")
	if want := "in use by 2\n"; code != 0 || c.out.String() != want {
		t.Errorf("exit %d, %q, want %q: %s", code, c.out.String(), want, c.err.String())
	}
}

// TestInspectNamesNewerProfile: the form says that the profile has a newer revision, and how the volume gets it.
func TestInspectNamesNewerProfile(t *testing.T) {
	w := theWorld()
	for _, changed := range []bool{false, true} {
		if changed {
			for i := range w.volumes {
				w.volumes[i].Profile.Revision = "0ldrevision0"
			}
		}
		c := newConsole(w)
		if code := c.run(t, "volume", "inspect", "db"); code != 0 {
			t.Fatal(c.err.String())
		}
		const want = "newer revision: 0123456789ab (drover volume set-profile db gold applies it)"
		if said := strings.Contains(c.out.String(), want); said != changed {
			t.Errorf("changed %t: %s", changed, c.out.String())
		}
	}
}

// TestExportNamesSnapshotFlag: an export of VOLUME@SNAPSHOT is refused with the right form.
func TestExportNamesSnapshotFlag(t *testing.T) {
	w := theWorld()
	w.fail = map[string]error{"Export": dataset.Errorf(dataset.ErrInvalid, "volume db has profile gold, not before-upgrade")}
	c := newConsole(w)
	if code := c.run(t, "volume", "export", "db@before-upgrade"); code == 0 {
		t.Error("it was exported")
	}
	const want = "before-upgrade is a snapshot (use drover volume export db --snapshot before-upgrade)"
	if !strings.Contains(c.err.String(), want) {
		t.Errorf("%q, want %s", c.err.String(), want)
	}
}

// TestDropAliasWaitsForReport: dropping an alias is tried again while the home reports a use of it, but not for ever,
// because a container that has just ended counts as a use until its unmount is reported.
func TestDropAliasWaitsForReport(t *testing.T) {
	for refusals, wantTries := range map[int]int{1: 2, 99: 4} {
		w, tries := theWorld(), 0
		w.fail = map[string]error{"Submit": dataset.Errorf(dataset.ErrInUse, "a running container uses it")}
		w.hook = func(method string) {
			if method == "Submit" {
				if tries++; tries > refusals {
					delete(w.fail, "Submit")
				}
			}
		}
		c := newConsole(w)
		code := c.run(t, "volume", "rename", "--drop-alias", "old", "db")
		if tries != wantTries || (code == 0) != (refusals < wantTries) {
			t.Errorf("%d refusals: exit %d after %d tries, want %d tries; %s", refusals, code, tries, wantTries, c.err.String())
		}
	}
}
