package mount

import "testing"

// differs compares the identities of block devices. An empty value is unknown.
func TestDiffers(t *testing.T) {
	for name, c := range map[string]struct {
		was               Identity
		sequence, mapping string
		want              bool
	}{
		"the same disk":                          {Identity{Sequence: "7"}, "7", "", false},
		"another disk":                           {Identity{Sequence: "7"}, "8", "", true},
		"nothing recorded":                       {Identity{}, "8", "LVM-b", false},
		"nothing to be read":                     {Identity{Sequence: "7", Mapping: "LVM-a"}, "", "", false},
		"a mapping that was activated again":     {Identity{Sequence: "7", Mapping: "LVM-a"}, "8", "LVM-a", false},
		"another mapping":                        {Identity{Sequence: "7", Mapping: "LVM-a"}, "8", "LVM-b", true},
		"another mapping, before Linux 5.15":     {Identity{Mapping: "LVM-a"}, "", "LVM-b", true},
		"a mapping that got a UUID meanwhile":    {Identity{Sequence: "7"}, "7", "LVM-a", false},
		"a mapping without a UUID, another disk": {Identity{Sequence: "7"}, "8", "LVM-a", true},
		"another sector of the disk":             {Identity{Sequence: "7 2048"}, "7 4096", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.was.differs(c.sequence, c.mapping); got != c.want {
				t.Errorf("it differs: %t", got)
			}
			if c.was.matches(c.sequence, c.mapping) && c.want {
				t.Error("it differs and matches")
			}
		})
	}
}
