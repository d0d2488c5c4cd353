#!/bin/sh
# The entry point of the database images that scripts/image.sh builds. It keeps to what the official
# images do, so that a test which passes here says something about them:
#
#   IMAGE mariadb|postgres|redis [flags of the server]
#
# An empty data directory is initialised and given to the server's user; the server then takes the
# place of this script as PID 1, so that `docker stop` reaches it. Anything else is run as it stands.
#
# Settings, read only when the data directory is initialised:
#   MARIADB_ROOT_PASSWORD, MARIADB_DATABASE, MARIADB_USER, MARIADB_PASSWORD (MYSQL_* likewise)
#   POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB; PGDATA
# Without a password the server is open to whoever reaches its port: these images are for tests.
set -eu

is_empty() {
	[ -z "$(ls -A -- "$1")" ]
}

# own DIR USER: makes DIR and gives it to USER when another owns it. A volume that already belongs to
# the server is left as it is, however large.
own() {
	mkdir -p -- "$1"
	if [ "$(stat -c %U -- "$1")" != "$2" ]; then
		chown -R -- "$2:$2" "$1"
	fi
}

as() {
	user=$1
	shift
	if [ "$(id -u)" = 0 ]; then
		exec setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"
	fi
	exec "$@"
}

# sql_string TEXT: TEXT as an SQL literal, for MariaDB and PostgreSQL as they are configured here.
sql_string() {
	printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"
}

mariadb_init_sql() {
	password=${MARIADB_ROOT_PASSWORD:-${MYSQL_ROOT_PASSWORD:-}}
	database=${MARIADB_DATABASE:-${MYSQL_DATABASE:-}}
	user=${MARIADB_USER:-${MYSQL_USER:-}}
	echo "SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES');"
	echo "CREATE USER IF NOT EXISTS root@'%';"
	echo "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;"
	if [ -n "$password" ]; then
		echo "SET PASSWORD FOR root@'%' = PASSWORD($(sql_string "$password"));"
		echo "SET PASSWORD FOR root@localhost = PASSWORD($(sql_string "$password"));"
	fi
	if [ -n "$database" ]; then
		echo "CREATE DATABASE IF NOT EXISTS \`$database\`;"
	fi
	if [ -n "$user" ]; then
		echo "CREATE USER IF NOT EXISTS $(sql_string "$user")@'%' IDENTIFIED BY" \
			"$(sql_string "${MARIADB_PASSWORD:-${MYSQL_PASSWORD:-}}");"
		if [ -n "$database" ]; then
			echo "GRANT ALL ON \`$database\`.* TO $(sql_string "$user")@'%';"
		fi
	fi
}

run_mariadb() {
	data=/var/lib/mysql
	own "$data" mysql
	if is_empty "$data"; then
		mariadb-install-db --user=mysql --datadir="$data" --skip-test-db \
			--auth-root-authentication-method=normal --skip-name-resolve >/dev/null
		# The server reads it before it listens: nobody meets it without its password.
		mariadb_init_sql >/run/mysqld/init.sql
		chown mysql /run/mysqld/init.sql
		set -- --init-file=/run/mysqld/init.sql "$@"
	fi
	as mysql mariadbd --datadir="$data" --bind-address='*' --skip-name-resolve "$@"
}

init_postgres() {
	PGUSER=${POSTGRES_USER:-postgres}
	auth=trust
	if [ -n "${POSTGRES_PASSWORD:-}" ]; then
		auth=scram-sha-256
	fi
	printf '%s\n' "${POSTGRES_PASSWORD:-unused}" >/run/postgresql/password
	chown postgres /run/postgresql/password
	(as postgres initdb --username="$PGUSER" --pwfile=/run/postgresql/password \
		--auth-local=trust --auth-host="$auth" >/dev/null)
	rm /run/postgresql/password
	echo "host all all all $auth" >>"$PGDATA/pg_hba.conf"
	if [ -n "${POSTGRES_DB:-}" ] && [ "$POSTGRES_DB" != postgres ]; then
		printf 'CREATE DATABASE "%s"\n' "$POSTGRES_DB" |
			(as postgres postgres --single -D "$PGDATA" postgres >/dev/null)
	fi
}

run_postgres() {
	own "$PGDATA" postgres
	chmod 0700 "$PGDATA"
	if is_empty "$PGDATA"; then
		init_postgres
	fi
	as postgres postgres -c listen_addresses='*' "$@"
}

run_redis() {
	own /data redis
	cd /data
	as redis redis-server --dir /data --bind '*' '-::*' --protected-mode no "$@"
}

server=${1:-}
case $server in
mariadb | mariadbd | mysqld)
	shift
	run_mariadb "$@"
	;;
postgres)
	shift
	run_postgres "$@"
	;;
redis | redis-server)
	shift
	run_redis "$@"
	;;
*)
	exec "$@"
	;;
esac
