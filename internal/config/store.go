package config

import (
	"cmp"

	"github.com/droverhq/drover/internal/strictyaml"
)

// parseStore reads the settings of the store. It returns nil if the key is absent.
func parseStore(n strictyaml.Node) (*Consul, error) {
	if n.Absent() {
		return nil, nil
	}
	keys, err := n.Keys([]string{"consul"}, map[string]string{"bolt": "it is the default without a store " +
		"section: omit it"})
	if err != nil {
		return nil, err
	}
	if keys["consul"].Absent() {
		return nil, n.Errorf("it names no kind of store: use consul with its addresses, or omit store")
	}
	return consul(keys["consul"])
}

func consul(n strictyaml.Node) (*Consul, error) {
	var c Consul
	var bad strictyaml.Mistakes
	known := []string{"addresses", "prefix", "token_file", "ca_file", "cert_file", "key_file", "server_name"}
	keys, err := n.Keys(known, map[string]string{
		"token": "it would be in a file that others may read: put it in a separate file and name that file in " +
			"token_file",
	})
	bad.Add(err)
	if _, ok := keys["addresses"]; !ok && err == nil {
		bad.Add(n.Errorf("consul needs addresses, such as [\"https://consul1:8501\"]"))
	}
	c.Addresses, err = addresses(keys["addresses"])
	bad.Add(err)
	for _, text := range []struct {
		key  string
		into *string
	}{{"prefix", &c.Prefix}, {"server_name", &c.ServerName}} {
		*text.into, err = keys[text.key].String()
		if bad.Add(err) && *text.into == "" && !keys[text.key].Absent() {
			bad.Add(keys[text.key].Errorf("it is empty"))
		}
	}
	bad.Add(path(keys["token_file"], &c.TokenFile))
	bad.Add(path(keys["ca_file"], &c.CAFile))
	bad.Add(path(keys["cert_file"], &c.CertFile))
	bad.Add(path(keys["key_file"], &c.KeyFile))
	if (c.CertFile == "") != (c.KeyFile == "") {
		bad.Add(n.Errorf("cert_file and key_file are required together: one of them is missing"))
	}
	if err := bad.Err(); err != nil {
		return nil, err
	}
	c.Prefix = cmp.Or(c.Prefix, "drover")
	return &c, nil
}

func addresses(n strictyaml.Node) ([]string, error) {
	items, err := n.Items()
	if err != nil || n.Absent() {
		return nil, err
	}
	if len(items) == 0 || len(items) > maxConsul {
		return nil, n.Errorf("%d addresses: expected 1 to %d", len(items), maxConsul)
	}
	var bad strictyaml.Mistakes
	var out []string
	for _, item := range items {
		if item.IsMap() {
			// In a list in brackets, the YAML parser reads https://c:8501 without quotes as a key and a value.
			bad.Add(item.Errorf(`expected an address in quotes, such as "https://consul1:8501"`))
			continue
		}
		a, err := item.String()
		if bad.Add(err) && a == "" {
			bad.Add(item.Errorf("it is empty"))
		}
		out = append(out, a)
	}
	return out, bad.Err()
}
