// Package certificates has the commands of drover ca, which work on the certificate authority of a cluster.
package certificates
