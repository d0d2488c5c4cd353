package main

import "testing"

// Only outputs that show nothing else ask for summaries.
func TestListsAskForSummaries(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want bool
	}{
		{nil, true}, {[]string{"-o", "wide"}, true}, {[]string{"--format", "{{.Name}}"}, true}, {[]string{"-q"}, true},
		{[]string{"--sort", "used"}, true}, {[]string{"--filter", "label=env=prod"}, true}, {[]string{"--filter", "name=db"}, true},
		{[]string{"-o", "json"}, false}, {[]string{"-o", "yaml", "--filter", "name=db"}, false},
	} {
		c := newConsole(theWorld())
		if code := c.run(t, append([]string{"volume", "ls"}, tc.args...)...); code != 0 {
			t.Errorf("volume ls %q: exit %d, %s", tc.args, code, c.err.String())
		}
		if c.fake.summaries != tc.want {
			t.Errorf("volume ls %q: asked for summaries: %t, want %t", tc.args, c.fake.summaries, tc.want)
		}
	}
}
